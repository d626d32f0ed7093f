//! Stands for kubelet on a lab node: refuses to start without its configuration file, then answers `/healthz` on 127.0.0.1:10248.
//!
//! Only what a probe can see of kubelet from outside: a systemd unit with a main process that restarts, stops, hangs, and serves health.
//! The real kubelet comes with the Kubernetes lab; nothing here pretends to run pods.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;

/// Where kubelet serves its health, by default.
const HEALTHZ_PORT: u16 = 10248;

#[expect(clippy::print_stderr, reason = "a service logs to its journal")]
fn main() -> ExitCode {
    let Some(config) = std::env::args().find_map(|arg| arg.strip_prefix("--config=").map(str::to_owned)) else {
        eprintln!("usage: lab-kubelet --config=FILE");
        return ExitCode::from(2);
    };
    // The words are kubelet's own for this failure.
    if let Err(error) = std::fs::metadata(&config) {
        eprintln!("\"command failed\" err=\"failed to load kubelet config file, path: {config}, error: {error}\"");
        return ExitCode::FAILURE;
    }
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, HEALTHZ_PORT)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("\"command failed\" err=\"failed to listen on port {HEALTHZ_PORT}: {error}\"");
            return ExitCode::FAILURE;
        }
    };
    for stream in listener.incoming().flatten() {
        // A client that goes away early is its own affair.
        let _ = answer(stream);
    }
    ExitCode::SUCCESS
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut request = BufReader::new(stream.try_clone()?).lines();
    let first = request.next().transpose()?.unwrap_or_default();
    for line in request {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = match first.split(' ').nth(1) {
        Some("/healthz") => ("200 OK", "ok"),
        _ => ("404 Not Found", "404 page not found\n"),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
