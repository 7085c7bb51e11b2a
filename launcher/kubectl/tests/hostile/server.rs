//! An API server that knows a few hostile objects and one way to break off.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

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
}

/// The server, for as long as the test runs.
pub(crate) struct Server {
    _dir: tempfile::TempDir,
    /// A kubeconfig that names it.
    pub(crate) config: PathBuf,
}

impl Server {
    /// Starts one.
    pub(crate) fn start(fate: Fate) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let fate = fate.clone();
                thread::spawn(move || serve(stream, &fate));
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
        Self { _dir: dir, config }
    }
}

/// Answers requests until one of them is the last.
fn serve(mut stream: TcpStream, fate: &Fate) {
    let mut from = BufReader::new(stream.try_clone().unwrap());
    while let Some((line, headers)) = request(&mut from) {
        if let Some(key) = headers
            .iter()
            .find_map(|header| header.strip_prefix("sec-websocket-key: "))
        {
            attach(&mut stream, key, fate);
            return;
        }
        let length = headers
            .iter()
            .find_map(|header| header.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        std::io::Read::read_exact(&mut from, &mut vec![0; length]).unwrap();
        let (status, body) = answer(&line);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
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

/// Lets a client through to a pod, shows a little of its console, and does
/// then what is to be done.
fn attach(stream: &mut TcpStream, key: &str, fate: &Fate) {
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A binary frame (RFC 6455, section 5.2) of channel 1, standard output.
    let shown = super::SHOWN.as_bytes();
    let length = u8::try_from(shown.len() + 1).unwrap();
    let frame = [&[0x82, length, 1], shown].concat();
    stream.write_all(&frame).unwrap();
    match fate {
        Fate::Send(bytes) => {
            stream.write_all(bytes).unwrap();
        }
        Fate::Hold => {
            while stream.peek(&mut [0]).is_ok_and(|count| count > 0) {
                let _ = std::io::Read::read(stream, &mut [0; 4096]);
            }
        }
    }
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
