//! The dashboard: a line per node, and the selected node in detail.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Sparkline, Wrap},
};

use super::board::{Board, Watched};
use super::latency::{Figures, Latency, SOURCES, shown};

/// The lines for the list of nodes, if there are many and the terminal is high.
const MOST_LISTED: u16 = 8;
/// The lines below the list: the frames, the plots, the facts, one error, and the keys.
const BELOW: u16 = 4 + 3 + 3 + 3 + 1 + 1;
/// The lines of the table of latencies.
const LATENCY: u16 = 4;

pub(super) fn draw(frame: &mut Frame<'_>, board: &Board) {
    let latency = if board.nodes.iter().any(|node| node.has_admin) { LATENCY } else { 0 };
    let room = frame.area().height.saturating_sub(BELOW + latency).clamp(1, MOST_LISTED);
    let listed = u16::try_from(board.nodes.len()).unwrap_or(u16::MAX).min(room);
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
    let [cached, pings, facts, latency, reported] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(3),
        Constraint::Length(3),
        Constraint::Length(if node.has_admin { LATENCY } else { 0 }),
        Constraint::Min(0),
    ])
    .areas(inner);
    plots(frame, cached, pings, node);
    frame.render_widget(Paragraph::new(facts_of(node)), facts);
    frame.render_widget(Paragraph::new(latencies(node.latency)), latency);
    let errors: Vec<Line<'_>> = node.reported().into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(errors).wrap(Wrap { trim: true }), reported);
}

/// Draws the hit rate beside the errors, and the PING below them.
fn plots(frame: &mut Frame<'_>, cached: Rect, pings: Rect, node: &Watched) {
    let [hits, errors] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(1).areas(cached);
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
    plot(frame, errors, format!("errors of the cache {}", last(&node.errors)), &node.errors, None);
}

/// Returns lines about the servers, the mode and the pool.
fn facts_of(node: &Watched) -> Vec<Line<'static>> {
    let field = |pointer| node.field(pointer);
    vec![
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
            if node.has_admin { " (b switches it)" } else { "" },
            field("/sessionCache/pool/size"),
            field("/sessionCache/pool/available"),
            field("/sessionCache/pool/pending")
        )),
    ]
}

/// Returns a table with a column per source.
fn latencies(latency: Option<Latency>) -> Vec<Line<'static>> {
    let Latency { sources } = latency.unwrap_or_default();
    let row = |title: &str, cells: [String; SOURCES.len()]| {
        let [near, cache, store, none] = cells;
        Line::from(format!("{title:<12}{near:>15}{cache:>15}{store:>15}{none:>15}"))
    };
    let figures = |title: &str, of: fn(&Figures) -> Option<f64>| {
        row(title, sources.each_ref().map(|source| shown(of(source))))
    };
    vec![
        row("latency", SOURCES.map(|(_, title)| title.to_owned())),
        figures("p50 in ms", |source| source.p50),
        figures("p99 in ms", |source| source.p99),
        figures("per second", |source| source.rate),
    ]
}

/// Returns whether a server is connected, in words.
fn connected(node: &Watched, pointer: &str) -> &'static str {
    match node.field(pointer).as_str() {
        "true" => "connected",
        "false" => "not connected",
        _ => "unknown",
    }
}

/// Draws a title and, below it, the last values that fit.
fn plot(
    frame: &mut Frame<'_>,
    area: Rect,
    title: String,
    values: &std::collections::VecDeque<u64>,
    most: Option<u64>,
) {
    let [text, line] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(Paragraph::new(title), text);
    let fitting = values.len().saturating_sub(usize::from(line.width));
    let shown: Vec<u64> = values.iter().skip(fitting).copied().collect();
    let sparkline = Sparkline::default().data(&shown).style(Style::new().fg(Color::Cyan));
    let sparkline = match most {
        Some(most) => sparkline.max(most),
        None => sparkline,
    };
    frame.render_widget(sparkline, line);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::watch::board::{
        Reading,
        tests::{board, document},
    };
    use crate::watch::latency::tests::scraped;

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
            board.add(readings);
        }
        for (number, second) in [(100, 0), (300, 2)] {
            board.measure(vec![Ok(Some(scraped(number, second))), Ok(None)]);
        }
        let screen = drawn(&board, 80, 24);
        for part in [
            "healthy     10.0.0.1:3000",
            "no response 10.0.0.1:3001",
            "hit rate 90 %",
            "ping 0.25 ms, get 0.2 ms, set 0.3 ms",
            "errors of the cache 0",
            "Redis connected, version 7.0.15, memory 1.2M, keys 42",
            "Postgres connected, breaker closed, journal 120 ms old",
            "mode on (b switches it), pool size 10, available 8, pending 0",
            "latency          near cache          Redis       Postgres           none",
            "p50 in ms                 -            0.5            5.5              -",
            "p99 in ms                 -           0.99           9.91              -",
            "per second                -            100            100              -",
            "q quit",
            "█",
        ] {
            assert!(screen.contains(part), "no `{part}` in\n{screen}");
        }
        board.select(true);
        let screen = drawn(&board, 80, 24);
        for part in ["connection refused", "p50 in ms                 -              -"] {
            assert!(screen.contains(part), "no `{part}` in\n{screen}");
        }
    }

    #[test]
    fn list_of_many_nodes_leaves_room_for_the_latency_and_an_error() {
        let mut board = board(30);
        let lost = || Reading::Failed("connection refused".to_owned());
        board.add((0..30).map(|_| lost()).collect());
        (0..29).for_each(|_| board.select(true));
        let screen = drawn(&board, 80, 24);
        for part in ["no response 10.0.0.1:3029", "per second", "connection refused"] {
            assert!(screen.contains(part), "no `{part}` in\n{screen}");
        }
    }

    #[test]
    fn node_without_an_address_for_administrators_has_no_latency() {
        let mut board = board(1);
        board.nodes[0].has_admin = false;
        board.add(vec![Reading::Document(document(10, 100))]);
        assert!(!drawn(&board, 80, 24).contains("p50 in ms"));
        assert!(!board.lines().next().unwrap().contains("cache="));
    }

    #[test]
    fn paused_node_is_not_shown_as_disconnected() {
        let mut board = board(1);
        let mut document = document(10, 100);
        document["postgres"]["connected"] = false.into();
        document["journal"]["ageMs"] = serde_json::Value::Null;
        document["paused"] = true.into();
        board.add(vec![Reading::Document(document)]);
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
        board.add(vec![Reading::Document(document)]);
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
