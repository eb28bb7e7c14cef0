//! A way to Postgres that can be cut or swallow what passes. Threads and blocking sockets: it must
//! go on working while the runtime under test does not.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;

/// One connection through the proxy.
#[derive(Clone)]
struct Line {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
    questions_lost: Arc<AtomicBool>,
    answers_lost: Arc<AtomicBool>,
}

pub struct Proxy {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<Line>>>,
}

impl Proxy {
    /// To the server of `url`, which it must name by host and port.
    pub fn to(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
        let open = Arc::clone(&lines);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect((server.0.as_str(), server.1)).unwrap();
                let line = Line {
                    client: Arc::new(client),
                    server: Arc::new(server),
                    questions_lost: Arc::default(),
                    answers_lost: Arc::default(),
                };
                open.lock().unwrap().push(line.clone());
                let there = line.clone();
                std::thread::spawn(move || {
                    pass(&there.client, &there.server, &there.questions_lost);
                });
                std::thread::spawn(move || pass(&line.server, &line.client, &line.answers_lost));
            }
        });
        Self { address, lines }
    }

    /// `url` by way of this proxy.
    pub fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_once('/').unwrap();
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        format!("{scheme}://{user}@{}/{path}", self.address)
    }

    /// From now on the connections there are lose everything, both ways, and stay open.
    pub fn swallow_established(&self) {
        for line in self.lines.lock().unwrap().iter() {
            line.questions_lost.store(true, Ordering::SeqCst);
            line.answers_lost.store(true, Ordering::SeqCst);
        }
    }

    /// From now on the connections there are lose the server's answers, and stay open.
    pub fn swallow_answers(&self) {
        for line in self.lines.lock().unwrap().iter() {
            line.answers_lost.store(true, Ordering::SeqCst);
        }
    }

    /// Closes the connections there are.
    pub fn cut(&self) {
        for line in self.lines.lock().unwrap().drain(..) {
            let _ = line.client.shutdown(Shutdown::Both);
            let _ = line.server.shutdown(Shutdown::Both);
        }
    }

    pub fn connections(&self) -> usize {
        self.lines.lock().unwrap().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, lost: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !lost.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
