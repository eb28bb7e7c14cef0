//! The dashboard: a line per node, and the selected node in detail.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Sparkline, Wrap},
};

use super::board::{Board, Watched, ms};
use super::latency::{Latency, SOURCES};

/// The columns for the figures of a source, left of its sparkline.
const FIGURES: u16 = 48;

/// The lines for the list of nodes, if there are many.
const MOST_LISTED: u16 = 8;

pub(super) fn draw(frame: &mut Frame<'_>, board: &Board) {
    let listed = u16::try_from(board.nodes.len()).unwrap_or(u16::MAX).min(MOST_LISTED);
    let [nodes, detail, keys] = Layout::vertical([
        Constraint::Length(listed + 2),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    list(frame, nodes, board);
    if let Some(node) = board.nodes.get(board.selected) {
        selected(frame, detail, node);
    }
    let help = if board.message.is_empty() {
        "q quit   Up/Down select   b bypass on/off"
    } else {
        &board.message
    };
    frame.render_widget(Paragraph::new(help), keys);
}

fn list(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let rows = usize::from(area.height.saturating_sub(2));
    let first = (board.selected + 1).saturating_sub(rows);
    let lines = board.nodes.iter().enumerate().skip(first).take(rows).map(|(at, node)| {
        let style = match at == board.selected {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        let status = Span::styled(format!("{:<12}", node.status()), style.fg(colour(node)));
        let text = format!(
            "{:<22} mode {:<7} hits {:>3} %  ping {:>5} ms",
            node.name,
            node.field("/mode"),
            node.hit_rates.back().copied().unwrap_or_default(),
            node.field("/performance/ping"),
        );
        Line::from(vec![status, Span::styled(text, style)])
    });
    let list = Paragraph::new(lines.collect::<Vec<_>>());
    frame.render_widget(list.block(Block::bordered().title("nodes")), area);
}

fn colour(node: &Watched) -> Color {
    match node.status() {
        "healthy" => Color::Green,
        "degraded" | "waiting" => Color::Yellow,
        _ => Color::Red,
    }
}

fn selected(frame: &mut Frame<'_>, area: Rect, node: &Watched) {
    let block = Block::bordered().title(node.name.as_str());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let (of_pings, of_sources) = if node.latencies.is_some() { (2, 3) } else { (3, 0) };
    let [hits, pings, latencies, errors, facts, reported] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(of_pings),
        Constraint::Length(of_sources),
        Constraint::Length(2),
        Constraint::Length(3),
        Constraint::Min(0),
    ])
    .areas(inner);
    let last =
        |values: &std::collections::VecDeque<u64>| values.back().copied().unwrap_or_default();
    let hit_rate = format!("hit rate {} %", last(&node.hit_rates));
    plot(frame, hits, hit_rate, &node.hit_rates, Some(100));
    let ping = format!(
        "ping {} ms, get {} ms, set {} ms",
        node.field("/performance/ping"),
        node.field("/performance/get"),
        node.field("/performance/set")
    );
    plot(frame, pings, ping, &node.pings, None);
    if let Some(measured) = &node.latencies {
        by_source(frame, latencies, node, measured);
    }
    plot(frame, errors, format!("errors of the cache {}", last(&node.errors)), &node.errors, None);
    let field = |pointer| node.field(pointer);
    let lines = vec![
        Line::from(format!(
            "Redis {}, version {}, memory {}, keys {}",
            connected(node, "/redis/connected"),
            field("/redis/version"),
            field("/redis/usedMemory"),
            field("/redis/totalKeys")
        )),
        Line::from(format!(
            "Postgres {}, breaker {}, journal {} ms old",
            match field("/paused").as_str() {
                "true" => "asleep, until a request comes",
                _ => connected(node, "/postgres/connected"),
            },
            field("/breaker/state"),
            field("/journal/ageMs")
        )),
        Line::from(format!(
            "mode {}{}, pool size {}, available {}, pending {}",
            field("/mode"),
            if node.has_switch { " (b switches it)" } else { "" },
            field("/sessionCache/pool/size"),
            field("/sessionCache/pool/available"),
            field("/sessionCache/pool/pending")
        )),
    ];
    frame.render_widget(Paragraph::new(lines), facts);
    let errors: Vec<Line<'_>> = node.reported().into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(errors).wrap(Wrap { trim: true }), reported);
}

/// Draws a line per source: its figures, and its p99 over time.
fn by_source(
    frame: &mut Frame<'_>,
    area: Rect,
    node: &Watched,
    latencies: &[Latency; SOURCES.len()],
) {
    let lines = Layout::vertical([Constraint::Length(1); SOURCES.len()]).split(area);
    for (at, ((_, name), latency)) in SOURCES.iter().zip(latencies).enumerate() {
        let [text, line] =
            Layout::horizontal([Constraint::Length(FIGURES), Constraint::Min(0)]).areas(lines[at]);
        let rate = latency.per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        let (p50, p99) = (ms(latency.p50), ms(latency.p99));
        let figures = format!("{name:<10} {rate:>6}/s p50 {p50:>7} p99 {p99:>7} ms");
        frame.render_widget(Paragraph::new(figures), text);
        sparkline(frame, line, &node.p99s[at], None);
    }
}

/// Returns whether a server is connected, in words.
fn connected(node: &Watched, pointer: &str) -> &'static str {
    match node.field(pointer).as_str() {
        "true" => "connected",
        "false" => "not connected",
        _ => "unknown",
    }
}

/// Draws a title and, below it, the values.
fn plot(
    frame: &mut Frame<'_>,
    area: Rect,
    title: String,
    values: &std::collections::VecDeque<u64>,
    most: Option<u64>,
) {
    let [text, line] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(Paragraph::new(title), text);
    sparkline(frame, line, values, most);
}

/// Draws the last values that fit.
fn sparkline(
    frame: &mut Frame<'_>,
    area: Rect,
    values: &std::collections::VecDeque<u64>,
    most: Option<u64>,
) {
    let fitting = values.len().saturating_sub(usize::from(area.width));
    let shown: Vec<u64> = values.iter().skip(fitting).copied().collect();
    let sparkline = Sparkline::default().data(&shown).style(Style::new().fg(Color::Cyan));
    let sparkline = match most {
        Some(most) => sparkline.max(most),
        None => sparkline,
    };
    frame.render_widget(sparkline, area);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::watch::board::{
        Reading,
        tests::{board, document, metrics, samples},
    };

    fn drawn(board: &Board, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn eighty_columns_and_24_lines_show_everything() {
        let mut board = board(2);
        for (hits, total) in [(10, 100), (100, 200)] {
            let readings = vec![
                Reading::Document(document(hits, total)),
                Reading::Failed("connection refused".to_owned()),
            ];
            let mut samples = samples(readings);
            samples[0].metrics = metrics(total * 10);
            board.add(samples);
        }
        let screen = drawn(&board, 80, 24);
        for part in [
            "healthy     10.0.0.1:3000",
            "no response 10.0.0.1:3001",
            "hit rate 90 %",
            "ping 0.25 ms, get 0.2 ms, set 0.3 ms",
            "near cache      0/s p50       - p99       - ms",
            "/s p50    1.50 p99    1.99 ms",
            "errors of the cache 0",
            "Redis connected, version 7.0.15, memory 1.2M, keys 42",
            "Postgres connected, breaker closed, journal 120 ms old",
            "mode on (b switches it), pool size 10, available 8, pending 0",
            "q quit",
            "█",
        ] {
            assert!(screen.contains(part), "no `{part}` in\n{screen}");
        }
        board.select(true);
        assert!(drawn(&board, 80, 24).contains("connection refused"));
    }

    #[test]
    fn paused_node_is_not_shown_as_disconnected() {
        let mut board = board(1);
        let mut document = document(10, 100);
        document["postgres"]["connected"] = false.into();
        document["journal"]["ageMs"] = serde_json::Value::Null;
        document["paused"] = true.into();
        board.add(samples(vec![Reading::Document(document)]));
        let screen = drawn(&board, 80, 24);
        assert!(screen.contains("Postgres asleep, until a request comes, breaker"), "{screen}");
    }

    #[test]
    fn longest_values_fit_in_eighty_columns() {
        let mut board = board(1);
        let mut document = document(10, 100);
        document["redis"]["connected"] = false.into();
        document["postgres"]["connected"] = false.into();
        document["breaker"]["state"] = "half-open".into();
        document["journal"]["ageMs"] = 999_999.into();
        document["mode"] = "bypass".into();
        for count in ["size", "available", "pending"] {
            document["sessionCache"]["pool"][count] = 1_000.into();
        }
        board.add(samples(vec![Reading::Document(document)]));
        let screen = drawn(&board, 80, 24);
        for part in [
            "Redis not connected, version",
            "Postgres not connected, breaker half-open, journal 999999 ms old",
            "mode bypass (b switches it), pool size 1000, available 1000, pending 1000",
        ] {
            assert!(screen.contains(part), "no `{part}` in\n{screen}");
        }
    }

    #[test]
    fn any_size_is_drawn_without_a_panic() {
        let board = board(30);
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 80)] {
            assert!(!drawn(&board, width, height).is_empty());
        }
    }
}
