//! Health and metrics over HTTP.
//!
//! Three short answers to GET, one for each connection: `/healthz`, `/readyz`
//! and `/metrics`. That there is an answer says that the loop turns, for both
//! share a thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The longest request that is read.
const REQUEST: usize = 8 << 10;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many clients are answered at a time.
const CLIENTS: usize = 16;

/// What there is to say.
pub(crate) trait Source: Send + Sync + 'static {
    /// Whether traffic, or a rollout, may go on.
    fn is_ready(&self) -> bool;

    /// The metrics as text.
    fn metrics(&self) -> String;
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(turn) = Arc::clone(&clients).acquire_owned().await else {
            return;
        };
        let (stream, source) = match listener.accept().await {
            Ok((stream, _)) => (stream, Arc::clone(&source)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let answered = answer(stream, source.as_ref());
            if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, answered).await {
                tracing::debug!(%error, "a client went away");
            }
            drop(turn);
        });
    }
}

async fn answer(mut stream: TcpStream, source: &dyn Source) -> io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(path) = path(&request) {
            break path;
        }
        let mut part = [0; 1024];
        let count = stream.read(&mut part).await?;
        if count == 0 || request.len() + count > REQUEST {
            break Err("400 Bad Request");
        }
        request.extend_from_slice(&part[..count]);
    };
    let (status, body) = match head.as_deref() {
        Ok("/healthz") => ("200 OK", "ok\n".to_owned()),
        Ok("/readyz") if source.is_ready() => ("200 OK", "ok\n".to_owned()),
        Ok("/readyz") => ("503 Service Unavailable", "not all is known\n".to_owned()),
        Ok("/metrics") => ("200 OK", source.metrics()),
        Ok(_) => ("404 Not Found", "there is nothing here\n".to_owned()),
        Err(status) => (*status, format!("{status}\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The path that is asked for, once the request is complete.
fn path(request: &[u8]) -> Option<Result<String, &'static str>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => Some(match (parsed.method, parsed.path) {
            (Some("GET"), Some(path)) => {
                let (path, _) = path.split_once('?').unwrap_or((path, ""));
                Ok(path.to_owned())
            }
            _ => Err("405 Method Not Allowed"),
        }),
        Err(_) => Some(Err("400 Bad Request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(bool);

    impl Source for Fixed {
        fn is_ready(&self) -> bool {
            self.0
        }

        fn metrics(&self) -> String {
            "up 1\n".into()
        }
    }

    async fn ask(ready: bool, request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed(ready))));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        // A server that refuses what it has not read resets the connection.
        let _ = stream.read_to_string(&mut answer).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        let cases: [(&[u8], bool, &str, &str); 7] = [
            (b"GET /healthz HTTP/1.1\r\n\r\n", false, "200", "ok\n"),
            (b"GET /readyz HTTP/1.1\r\n\r\n", true, "200", "ok\n"),
            (
                b"GET /readyz?a HTTP/1.1\r\n\r\n",
                false,
                "503",
                "not all is known\n",
            ),
            (
                b"GET /metrics HTTP/1.1\r\nA: b\r\n\r\n",
                true,
                "200",
                "up 1\n",
            ),
            (
                b"GET / HTTP/1.1\r\n\r\n",
                true,
                "404",
                "there is nothing here\n",
            ),
            (
                b"POST /metrics HTTP/1.1\r\n\r\n",
                true,
                "405",
                "405 Method Not Allowed\n",
            ),
            (b"nonsense", true, "400", "400 Bad Request\n"),
        ];
        for (request, ready, status, body) in cases {
            let answer = ask(ready, request).await;
            let (head, found) = answer.split_once("\r\n\r\n").unwrap_or_default();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert_eq!(found, body);
        }
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused() {
        let mut request = b"GET /metrics HTTP/1.1\r\nA: ".to_vec();
        request.resize(REQUEST * 2, b'a');
        let answer = ask(true, &request).await;
        assert!(answer.is_empty() || answer.contains("400"), "{answer}");
    }
}
