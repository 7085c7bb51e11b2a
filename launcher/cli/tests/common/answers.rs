//! A server that has one answer to every request.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// What the server says.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// This status line, perhaps with headers, and an empty body.
    Head(&'static str),
    /// Nothing, ever.
    Silence,
}

/// Starts the server; gives `127.0.0.1:PORT`. Its threads end with the test.
pub fn serve(answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that goes away is no concern of the server's.
            std::thread::spawn(move || drop(reply(client, answer)));
        }
    });
    format!("127.0.0.1:{port}")
}

fn reply(mut client: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    // TLS's first message has no line end; whoever tries it is hung up on.
    client.set_read_timeout(Some(Duration::from_millis(500)))?;
    while !lines
        .next()
        .unwrap_or_else(|| Ok(String::new()))?
        .is_empty()
    {}
    match answer {
        Answer::Head(head) => {
            let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
            client.write_all(format!("HTTP/1.1 {head}\r\n{end}").as_bytes())
        }
        Answer::Silence => {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
    }
}
