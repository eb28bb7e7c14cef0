//! Blocks of HTML pages that consist of one file: the frame with its style, escaping and plots.
//!
//! A page works from the disk, without scripts and without network. It follows the theme of the
//! system, and the width of the window.

pub mod plot;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#59636e;--edge:#d8dee4;--card:#f6f8fa;\
--before:#8c959f;--after:#1a7f64;--away:#d1242f22;--shade:#0004}\
@media(prefers-color-scheme:dark){:root{--bg:#0f1419;--fg:#e6edf3;--dim:#9198a1;--edge:#30363d;\
--card:#161b22;--before:#6e7681;--after:#3fb68b;--away:#f8514930;--shade:#fff4}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--bg);\
color:var(--fg);font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:1.5rem 0 .5rem}\
.dim{color:var(--dim)}.reason{border:1px solid var(--edge);border-radius:.5rem;padding:.6rem .8rem;\
margin:.5rem 0;background:var(--card);overflow-wrap:anywhere}.reason p{margin:.2rem 0}\
.scroll{overflow-x:auto;background:linear-gradient(90deg,var(--bg) 30%,transparent) 0 0/40px 100%,\
linear-gradient(270deg,var(--bg) 30%,transparent) 100% 0/40px 100%,\
linear-gradient(90deg,var(--shade),transparent) 0 0/14px 100%,\
linear-gradient(270deg,var(--shade),transparent) 100% 0/14px 100%;background-repeat:no-repeat;\
background-attachment:local,local,scroll,scroll}.reason .scroll{--bg:var(--card)}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{border-bottom:1px solid var(--edge);padding:.35rem .6rem;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}\
figure{margin:0;max-width:32rem;border:1px solid var(--edge);border-radius:.5rem;padding:.6rem}\
figcaption{font-size:.9rem;color:var(--dim)}svg{width:100%;height:auto;display:block}\
.label{fill:var(--dim);font:12px system-ui,sans-serif}.grid{stroke:var(--edge)}\
.line{fill:none;stroke:var(--after);stroke-width:2}.before{fill:var(--before)}\
.after{fill:var(--after)}.away{fill:var(--away)}ul{padding-left:1.2rem}li{overflow-wrap:anywhere}\
.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em}\
code{font:.9em ui-monospace,monospace}\
@media(max-width:40rem){body{padding:.7rem}table{font-size:.8rem}th,td{padding:.3rem}\
th:first-child,td:first-child{white-space:normal}}";

/// Returns a page. `title` is a text, and `body` is markup. `style` has further rules.
#[must_use]
pub fn page(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}{style}</style></head><body>\n{body}\n</body></html>\n",
        escaped(title)
    )
}

/// Escapes a text for HTML. Control characters are replaced.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            it if it.is_control() && it != '\n' => escaped.push('\u{fffd}'),
            it => escaped.push(it),
        }
    }
    escaped
}

/// Escapes a text for HTML. Text between backticks becomes code.
#[must_use]
pub fn marked(text: &str) -> String {
    let mut parts = text.split('`');
    let mut marked = escaped(parts.next().unwrap_or_default());
    while let Some(code) = parts.next() {
        match parts.next() {
            Some(after) => {
                marked += &format!("<code>{}</code>{}", escaped(code), escaped(after));
            }
            // A backtick without a second one stays.
            None => marked += &format!("`{}", escaped(code)),
        }
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_is_no_markup() {
        assert_eq!(escaped("<b a=\"x\">&'"), "&lt;b a=&quot;x&quot;&gt;&amp;&#39;");
        assert_eq!(escaped("a\u{1b}[2J"), "a\u{fffd}[2J");
    }

    #[test]
    fn text_between_backticks_is_code() {
        for (text, html) in [
            ("run `a <b>` and `c`", "run <code>a &lt;b&gt;</code> and <code>c</code>"),
            ("a ` alone <b>", "a ` alone &lt;b&gt;"),
            ("`a` and `b", "<code>a</code> and `b"),
            ("", ""),
        ] {
            assert_eq!(marked(text), html);
        }
    }
}
