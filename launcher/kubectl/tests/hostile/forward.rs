//! Ports whose server breaks off, and those who go through them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::SHOWN;
use crate::server::{Fate, Server};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The plugin, which is to forward a port of the machine.
fn forward(server: &Server, options: &[&str]) -> Command {
    let mut command = server.plugin(&["port-forward", "web"]);
    command.args(options);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

/// Lets it run to its end. What it says has room in the pipes.
fn ended(mut child: Child) -> (Output, String, String) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    (output, out, error)
}

/// The ways in which a connection can end too early; what is said then.
fn broken() -> [(&'static str, Fate, &'static str); 6] {
    [
        ("no frame", Fate::Send(vec![]), "broke"),
        ("half a frame", Fate::Send(vec![0x82, 0x7e, 0x10]), "broke"),
        ("an unknown frame", Fate::Send(vec![0x8f, 0x00]), "broke"),
        (
            "a frame of another port",
            Fate::Send(vec![0x82, 0x02, 8, b'x']),
            "broke",
        ),
        (
            "what is no text for people",
            Fate::Send(vec![0x82, 0x02, 1, 0xff]),
            "broke",
        ),
        (
            "the node's word",
            Fate::Send(b"\x82\x0c\x01\x1b[2Jrefused\x88\x00".to_vec()),
            "error:  [2Jrefused",
        ),
    ]
}

#[test]
fn standard_output_that_is_not_whole_is_no_success() {
    for (name, fate, words) in broken() {
        let server = Server::start(fate);
        let mut child = forward(&server, &["80", "--stdio"]).spawn().unwrap();
        let _open = child.stdin.take();
        let (output, out, error) = ended(child);
        assert!(!output.status.success(), "{name}: {error}");
        assert!(error.contains(words), "{name}: {error}");
        // What came last may be lost with the connection.
        assert!(SHOWN.starts_with(&out), "{name}: {out}");
    }
    let server = Server::start(Fate::Send(vec![0x88, 0x00]));
    let mut child = forward(&server, &["80", "--stdio"]).spawn().unwrap();
    let _open = child.stdin.take();
    let (output, out, error) = ended(child);
    assert!(output.status.success(), "{error}");
    assert_eq!((&*out, &*error), (SHOWN, ""));
}

#[test]
fn who_has_sent_everything_hears_the_answer() {
    let server = Server::start(Fate::Echo);
    let mut child = forward(&server, &["80", "--stdio"]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"question").unwrap();
    let (output, out, error) = ended(child);
    assert!(output.status.success(), "{error}");
    assert_eq!(out, format!("{SHOWN}question"));
    let mut client = Client::connect(&server);
    client.stream.write_all(b"question").unwrap();
    client.stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{SHOWN}question"));
}

#[test]
fn standard_streams_that_nobody_holds_end_it() {
    let server = Server::start(Fate::Hold);
    let mut child = forward(&server, &["80", "--stdio"]).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut shown = [0; SHOWN.len()];
    out.read_exact(&mut shown).unwrap();
    assert_eq!(shown, SHOWN.as_bytes());
    drop(child.stdin.take());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(child.try_wait().unwrap(), None, "somebody listens still");
    drop(out);
    let (output, _, error) = ended(child);
    assert!(!output.status.success());
    assert_eq!(error, "");
}

#[test]
fn an_answer_that_is_not_whole_does_not_look_like_one() {
    for (name, fate, words) in broken() {
        let server = Server::start(fate);
        let mut client = Client::connect(&server);
        let mut answer = Vec::new();
        let read = client.stream.read_to_end(&mut answer);
        let kind = read.unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{name}");
        let error = client.error();
        assert!(error.contains("error: port 80"), "{name}: {error}");
        assert!(
            error.contains(words.trim_start_matches("error: ")),
            "{name}: {error}"
        );
    }
    let server = Server::start(Fate::Send(vec![0x88, 0x00]));
    let mut client = Client::connect(&server);
    let mut answer = String::new();
    client.stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, SHOWN);
}

#[test]
fn a_client_that_goes_away_takes_its_connection_along() {
    let server = Server::start(Fate::Hold);
    for half in [false, true] {
        let mut client = Client::connect(&server);
        let mut shown = [0; SHOWN.len()];
        client.stream.read_exact(&mut shown).unwrap();
        if half {
            client.stream.shutdown(Shutdown::Write).unwrap();
            let held = server.ended.recv_timeout(Duration::from_millis(200));
            assert!(held.is_err(), "the connection ended too early");
        }
        client.reset();
        server.ended.recv_timeout(PATIENCE).unwrap();
    }
}

/// Somebody who has connected to the local port.
struct Client {
    stream: TcpStream,
    plugin: Child,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.plugin.kill();
        let _ = self.plugin.wait();
    }
}

impl Client {
    fn connect(server: &Server) -> Self {
        let mut plugin = forward(server, &[":80"]).spawn().unwrap();
        let mut line = String::new();
        let out = plugin.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let address = line.strip_prefix("Forwarding from ").unwrap();
        let address = address.split(' ').next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, plugin }
    }

    /// Goes away so that it shows at once.
    fn reset(&mut self) {
        let stream = &self.stream;
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
        // Its place is taken by one that leads nowhere.
        let nowhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        self.stream = TcpStream::connect(nowhere.local_addr().unwrap()).unwrap();
    }

    /// The first line that the plugin complains about.
    fn error(&mut self) -> String {
        let mut line = String::new();
        let error = self.plugin.stderr.as_mut().unwrap();
        BufReader::new(error).read_line(&mut line).unwrap();
        line
    }
}
