//! The text format in which Prometheus scrapes metrics: samples with their labels. It is a function
//! of the text.
//!
//! A line that is no sample is skipped, because other metrics of the application are none of our
//! business. Timestamps and exemplars behind a value are ignored.

/// The value of one series.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    labels: Vec<(&'a str, String)>,
    pub(super) value: f64,
}

impl Sample<'_> {
    /// Returns the value of a label.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str())
    }
}

/// Returns the samples of a scrape, in its order.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = identifier(line.trim_start())?;
    let (labels, rest) = match rest.trim_start().strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None if rest.starts_with(char::is_whitespace) => (Vec::new(), rest),
        None => return None,
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// Returns a name and what follows it.
fn identifier(text: &str) -> Option<(&str, &str)> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == ':';
    let (name, rest) = text.split_at(text.find(|it| !is_part(it)).unwrap_or(text.len()));
    let is_name = name.starts_with(|first: char| !first.is_ascii_digit());
    is_name.then_some((name, rest))
}

/// Returns the labels behind `{`, and what follows `}`.
fn labels(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, value) = identifier(rest)?;
        let value = value.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let (value, next) = quoted(value)?;
        labels.push((name, value));
        let next = next.trim_start();
        rest = match next.strip_prefix(',') {
            Some(next) => next,
            None if next.starts_with('}') => next,
            None => return None,
        };
    }
}

/// Returns the value behind `"`, without escapes, and what follows the closing `"`.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(match rest.next()? {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the only sample of a text: its name, labels as text, and value.
    fn only(text: &str) -> (String, String, f64) {
        let mut samples = samples(text);
        let sample = samples.next().unwrap_or_else(|| panic!("no sample in {text:?}"));
        assert_eq!(samples.next(), None, "{text:?}");
        let labels: Vec<_> =
            sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (sample.name.to_owned(), labels.join(" "), sample.value)
    }

    #[test]
    fn sample_has_a_name_labels_and_a_value() {
        for (line, name, labels, value) in [
            ("up 1", "up", "", 1.0),
            ("  up\t1 ", "up", "", 1.0),
            ("a:b_c9 -1.5e3", "a:b_c9", "", -1500.0),
            ("up{} 2", "up", "", 2.0),
            ("up {} 2", "up", "", 2.0),
            ("up{a=\"b\"}2", "up", "a=b", 2.0),
            ("up{a=\"b\",} 2", "up", "a=b", 2.0),
            ("up{ a = \"b\" , c = \"d\" } 2", "up", "a=b c=d", 2.0),
            ("up{a=\"\"} 2", "up", "a=", 2.0),
            ("up{le=\"+Inf\"} +Inf", "up", "le=+Inf", f64::INFINITY),
            ("up -Inf", "up", "", f64::NEG_INFINITY),
            // A timestamp, and an exemplar of OpenMetrics.
            ("up 3 1395066363000", "up", "", 3.0),
            ("up{a=\"b\"} 3 # {trace_id=\"c\"} 0.5 1.2", "up", "a=b", 3.0),
            ("up 4\r\n", "up", "", 4.0),
        ] {
            let expected = (name.to_owned(), labels.to_owned(), value);
            assert_eq!(only(line), expected, "{line:?}");
        }
        let undefined = only("up NaN").2;
        assert!(undefined.is_nan());
    }

    #[test]
    fn value_of_a_label_may_have_any_character() {
        for (written, value) in [
            (r"a\\b", r"a\b"),
            (r#"\"a\""#, "\"a\""),
            (r"a\nb", "a\nb"),
            (r"a\\n", r"a\n"),
            ("a,b=c", "a,b=c"),
            ("}{ 1 #", "}{ 1 #"),
            ("ä🙂", "ä🙂"),
        ] {
            let line = format!("up{{before=\"x\",a=\"{written}\",after=\"y\"}} 1");
            let sample = samples(&line).next().unwrap();
            let found = ["before", "a", "after", "missing"].map(|name| sample.label(name));
            assert_eq!(found, [Some("x"), Some(value), Some("y"), None], "{line}");
        }
    }

    #[test]
    fn line_that_is_no_sample_is_skipped() {
        for line in [
            "",
            " ",
            "# HELP up Whether it is up 1",
            "# TYPE up gauge",
            "#up 1",
            "up",
            "up ",
            "up{} ",
            "up one",
            "9up 1",
            "up1.5",
            "up{a=\"b\" 1",
            "up{a=\"b} 1",
            "up{a=b} 1",
            "up{a} 1",
            "up{=\"b\"} 1",
            "up{9=\"b\"} 1",
            "up{,} 1",
            "up{a=\"b\",,} 1",
            "up{a=\"b\" c=\"d\"} 1",
            r#"up{a="\t"} 1"#,
            r#"up{a="\"#,
            "{\"quoted.name\"} 1",
            "<html> 1",
            "{\"json\": 1}",
        ] {
            assert_eq!(samples(line).next(), None, "{line:?}");
            let lines = format!("a 1\n{line}\nb 2\n");
            let names: Vec<_> = samples(&lines).map(|sample| sample.name).collect();
            assert_eq!(names, ["a", "b"], "{line:?}");
        }
    }

    #[test]
    fn any_prefix_of_a_scrape_is_read_without_a_panic() {
        let text = "# HELP ä b\nup{a=\"ä\\\\\",b=\"\\\"🙂\"} 1.5 2 # {c=\"d\"} 3\nb NaN\n";
        for (at, _) in text.char_indices() {
            assert!(samples(&text[..at]).count() <= 2);
        }
    }
}
