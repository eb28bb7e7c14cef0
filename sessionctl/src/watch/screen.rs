//! The terminal: keys, and the loop that reads and draws.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use session_tools::Failure;
use tokio::{sync::mpsc, task::JoinSet};

use super::{board::Board, draw::draw, node::Node, read, scrape};

/// How long the thread that reads keys waits before it looks whether it should end.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// A key with a meaning.
enum Key {
    Quit,
    Up,
    Down,
    Switch,
    /// The terminal has another size.
    Redraw,
}

/// The terminal in its own screen. Dropping it restores the shell's, also after a signal.
struct Screen {
    terminal: DefaultTerminal,
    ends: Arc<AtomicBool>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        ratatui::restore();
    }
}

/// Shows the dashboard until the operator quits.
pub(super) async fn show(nodes: Vec<Node>, every: Duration) -> Result<(), Failure> {
    let ends = Arc::new(AtomicBool::new(false));
    let mut screen = Screen { terminal: ratatui::try_init()?, ends: Arc::clone(&ends) };
    let mut keys = keys(ends);
    let nodes: Arc<[Node]> = nodes.into();
    let mut board = Board::new(&nodes);
    // A node that hangs delays the readings and not the keys. Metrics that hang delay neither.
    let mut readers = JoinSet::new();
    let mut readings =
        repeated(&mut readers, &nodes, every, |nodes| async move { read(&nodes).await });
    let mut scrapes =
        repeated(&mut readers, &nodes, every, |nodes| async move { scrape(&nodes).await });
    // A switch that hangs delays neither.
    let mut switches = JoinSet::new();
    let shown = async {
        loop {
            screen.terminal.draw(|frame| draw(frame, &board))?;
            tokio::select! {
                Some(new) = readings.recv() => board.add(new),
                Some(new) = scrapes.recv() => board.measure(new),
                key = keys.recv() => match key {
                    Some(Key::Quit) | None => return Ok::<(), Failure>(()),
                    Some(Key::Up) => board.select(false),
                    Some(Key::Down) => board.select(true),
                    Some(Key::Redraw) => {}
                    Some(Key::Switch) => {
                        if let Some((at, mode)) = board.switch() {
                            let node = nodes[at].clone();
                            switches.spawn(async move { (at, node.switch(mode).await) });
                        }
                    }
                },
                Some(Ok((at, reply))) = switches.join_next() => board.switched(at, reply),
            }
        }
    };
    let ended = shown.await;
    readers.abort_all();
    drop(screen);
    // The operator has left, and what they requested is still sent.
    while switches.join_next().await.is_some() {}
    ended
}

/// Reads the nodes at each interval in a task of its own.
fn repeated<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    readers: &mut JoinSet<()>,
    nodes: &Arc<[Node]>,
    every: Duration,
    read: fn(Arc<[Node]>) -> F,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(1);
    let nodes = Arc::clone(nodes);
    readers.spawn(async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            if sender.send(read(Arc::clone(&nodes)).await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Reads keys in a thread of its own, because the terminal is read without async.
fn keys(ends: Arc<AtomicBool>) -> mpsc::Receiver<Key> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !ends.load(Relaxed) {
            let key = match event::poll(KEY_WAIT) {
                Ok(false) => continue,
                Ok(true) => event::read().map(|event| meaning(&event)),
                Err(error) => Err(error),
            };
            // Without a terminal there are no more keys, and the dashboard ends.
            let Ok(key) = key else { return };
            if key.is_some_and(|key| sender.blocking_send(key).is_err()) {
                return;
            }
        }
    });
    keys
}

fn meaning(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else {
        return matches!(event, Event::Resize(..)).then_some(Key::Redraw);
    };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
        KeyCode::Char('b') => Some(Key::Switch),
        _ => None,
    }
}
