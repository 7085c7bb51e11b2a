//! An API server that knows a few hostile objects and one way to break off.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;

/// Clears the screen, sets the title, and turns the line around.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\u{7f}\r";

/// What becomes of a connection into a pod.
#[derive(Clone)]
pub(crate) enum Fate {
    /// These bytes are sent, and the connection is closed.
    Send(Vec<u8>),
    /// Nothing comes any more.
    Hold,
    /// What comes first is sent back a while later, then the connection is
    /// closed in good order.
    Echo,
}

/// How long an answer takes.
const WHILE: Duration = Duration::from_millis(300);

/// The server, for as long as the test runs.
pub(crate) struct Server {
    _dir: tempfile::TempDir,
    /// A kubeconfig that names it.
    pub(crate) config: PathBuf,
    /// Hears of each connection into a pod that is at its end.
    pub(crate) ended: Receiver<()>,
}

impl Server {
    /// Starts one.
    pub(crate) fn start(fate: Fate) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (fate, sender) = (fate.clone(), sender.clone());
                thread::spawn(move || {
                    if serve(stream, &fate) {
                        let _ = sender.send(());
                    }
                });
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(&config, content.to_string()).unwrap();
        Self {
            _dir: dir,
            config,
            ended,
        }
    }

    /// The plugin, with this server as its cluster.
    pub(crate) fn plugin(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-bootwright"));
        command.args(words).env("KUBECONFIG", &self.config);
        command
    }
}

/// Answers requests until one of them is the last; whether that led into a pod.
fn serve(mut stream: TcpStream, fate: &Fate) -> bool {
    let mut from = BufReader::new(stream.try_clone().unwrap());
    while let Some((line, headers)) = request(&mut from) {
        if let Some(key) = headers
            .iter()
            .find_map(|header| header.strip_prefix("sec-websocket-key: "))
        {
            attach(&mut stream, key, line.contains("/portforward"), fate);
            return true;
        }
        let length = headers
            .iter()
            .find_map(|header| header.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        from.read_exact(&mut vec![0; length]).unwrap();
        let (status, body) = answer(&line);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return false;
        }
    }
    false
}

/// The first line of a request, and its headers: names in small letters.
fn request(from: &mut BufReader<TcpStream>) -> Option<(String, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(match line.split_once(": ") {
                Some((name, value)) => format!("{}: {value}", name.to_lowercase()),
                None => line.to_owned(),
            }),
        }
    }
    Some((lines.remove(0), lines))
}

/// Lets a client through to a pod, shows a little of its console or of its port
/// 80, and does then what is to be done.
fn attach(stream: &mut TcpStream, key: &str, port: bool, fate: &Fate) {
    let accept = derive_accept_key(key.as_bytes());
    let protocol = if port { "v4" } else { "v5" };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: {protocol}.channel.k8s.io\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // Standard output is channel 1. A port's bytes are channel 0, and what the
    // node has to say about it channel 1; both begin with the port's number.
    let output = if port { 0 } else { 1 };
    if port {
        stream.write_all(&frame(0, &[80, 0])).unwrap();
        stream.write_all(&frame(1, &[80, 0])).unwrap();
    }
    let shown = super::SHOWN.as_bytes();
    stream.write_all(&frame(output, shown)).unwrap();
    match fate {
        Fate::Send(bytes) => {
            stream.write_all(bytes).unwrap();
        }
        Fate::Hold => while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {},
        Fate::Echo => {
            let said = heard(stream);
            thread::sleep(WHILE);
            stream.write_all(&frame(output, &said)).unwrap();
            stream.write_all(&[0x88, 0x00]).unwrap();
            while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        }
    }
}

/// A binary frame (RFC 6455, section 5.2) of a channel.
fn frame(channel: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len() + 1).unwrap();
    [&[0x82, length, channel], bytes].concat()
}

/// What the next frame, which is short, brings on channel 0: it is masked, as
/// all are that clients send.
fn heard(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).unwrap();
    let mut bytes = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut bytes).unwrap();
    let mask = head[2..].iter().cycle();
    let mut bytes = bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask);
    assert_eq!(bytes.next(), Some(0));
    bytes.collect()
}

fn answer(line: &str) -> (u16, Value) {
    let path = line.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (kind, name) = match path.rsplit('/').next() {
        Some("virtualmachines") => {
            return (
                200,
                json!({
                    "apiVersion": "bootwright.dev/v1alpha1",
                    "kind": "VirtualMachineList",
                    "metadata": {},
                    "items": [machine("web")],
                }),
            );
        }
        Some(name) if path.contains("virtualmachinepools") => ("pool", name),
        name => ("machine", name.unwrap_or_default()),
    };
    match (kind, name) {
        ("pool", name) => (200, pool(name)),
        (_, "refused") => (
            422,
            json!({
                "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                "reason": "Invalid", "code": 422, "message": format!("no: {HOSTILE}"),
            }),
        ),
        (_, name) => (200, machine(name)),
    }
}

fn conditions() -> Value {
    json!([{
        "type": "Failure", "status": "True", "reason": HOSTILE, "message": HOSTILE,
        "lastTransitionTime": "2026-11-28T11:30:00Z",
    }])
}

fn machine(name: &str) -> Value {
    let (phase, words) = match name {
        "stopped" => (None, HOSTILE),
        _ => (Some("Running"), "Running"),
    };
    json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name, "namespace": "default", "uid": "1", "resourceVersion": "1" },
        "spec": { "runStrategy": "Halted", "template": { "spec": {
            "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
            "volumes": [],
        } } },
        "status": {
            "phase": phase,
            "printableStatus": words,
            "nodeName": HOSTILE,
            "pod": { "name": format!("{name}-vm"), "uid": "2" },
            "images": [{ "volume": HOSTILE, "image": HOSTILE }],
            "interfaces": [{ "name": "default", "ipAddress": HOSTILE, "ipAddresses": [HOSTILE] }],
            "requests": {},
            "conditions": conditions(),
        },
    })
}

fn pool(name: &str) -> Value {
    json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachinePool",
        "metadata": { "name": name, "namespace": "default", "uid": "1", "resourceVersion": "1" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "web" } },
            "virtualMachineTemplate": {
                "metadata": { "labels": { "app": "web" } },
                "spec": machine("web")["spec"],
            },
        },
        "status": { "conditions": conditions() },
    })
}
