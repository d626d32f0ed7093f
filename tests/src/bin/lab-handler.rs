//! Stands for virt-handler in the lab: the proxies through which a migration goes from launcher to launcher.
//!
//! Each line of standard input is one proxy, `FROM TO`: it listens on the one, and for each connection dials the other and carries bytes
//! both ways, as in KubeVirt (`pkg/virt-handler/migration-proxy`, v1.8; without its TLS). What begins with `/` is a Unix socket, else it is
//! an address and port of TCP. It answers a line when it listens, and ends with its standard input.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (from, to) = line.split_once(' ').context("a proxy is `FROM TO`")?;
        listen(from, to.to_owned()).await.with_context(|| format!("failed to listen on {from}"))?;
        answer();
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "whoever asked for a proxy waits for this line")]
fn answer() {
    println!("listening");
}

/// Listens, and carries each connection for as long as both ends want it.
async fn listen(from: &str, to: String) -> Result<()> {
    if from.starts_with('/') {
        let _ = fs::remove_file(from);
        let listener = UnixListener::bind(from)?;
        // The launcher is another user's.
        fs::set_permissions(from, fs::Permissions::from_mode(0o666))?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, to.clone()));
            }
        });
    } else {
        let listener = TcpListener::bind(from).await?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, to.clone()));
            }
        });
    }
    Ok(())
}

/// Who cannot be dialled, or hangs up, ends the connection: its own affair.
async fn carry(mut stream: impl AsyncRead + AsyncWrite + Unpin, to: String) {
    let _ = if to.starts_with('/') {
        match UnixStream::connect(&to).await {
            Ok(mut other) => copy_bidirectional(&mut stream, &mut other).await,
            Err(error) => Err(error),
        }
    } else {
        match TcpStream::connect(&to).await {
            Ok(mut other) => copy_bidirectional(&mut stream, &mut other).await,
            Err(error) => Err(error),
        }
    };
}
