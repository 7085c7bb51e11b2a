//! QEMU's control protocol (its docs/interop/qmp-spec.rst).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
#[derive(Debug)]
pub(super) struct Qmp {
    channel: Mutex<(UnixStream, Receiver<Value>)>,
    /// The reason that QEMU gave for its end.
    reason: Arc<Mutex<Option<String>>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Qmp {
    /// Greets QEMU at the other end of `stream`.
    pub(super) fn new(stream: UnixStream) -> anyhow::Result<Self> {
        let (replies, received) = mpsc::channel();
        let reason = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&reason);
        let lines = BufReader::new(stream.try_clone()?);
        let reader = thread::Builder::new().name("qmp".into()).spawn(move || {
            for line in lines.lines() {
                let Ok(line) = line else { break };
                let Ok(message) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                match message.get("event").and_then(Value::as_str) {
                    Some("SHUTDOWN") => {
                        let reason = message.pointer("/data/reason").and_then(Value::as_str);
                        *noted.lock().unwrap_or_else(PoisonError::into_inner) =
                            reason.map(str::to_owned);
                    }
                    Some(_) => {}
                    None => drop(replies.send(message)),
                }
            }
        })?;
        let qmp = Self {
            channel: Mutex::new((stream, received)),
            reason,
            reader: Mutex::new(Some(reader)),
        };
        {
            let channel = qmp.channel.lock().unwrap_or_else(PoisonError::into_inner);
            let greeting = channel.1.recv_timeout(PATIENCE);
            greeting.context("QEMU does not say hello")?;
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has QEMU do something and returns what it says to that.
    pub(super) fn execute(&self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let request = json!({"execute": command, "arguments": arguments});
        let context = || format!("QEMU does not take {command}");
        channel
            .0
            .write_all(format!("{request}\n").as_bytes())
            .with_context(context)?;
        let mut reply = channel.1.recv_timeout(PATIENCE).with_context(context)?;
        match reply.get("error").and_then(|e| e.get("desc")) {
            Some(error) => bail!("QEMU: {command}: {error}"),
            None => Ok(reply.get_mut("return").map(Value::take).unwrap_or_default()),
        }
    }

    /// Why QEMU has ended, once it has.
    pub(super) fn reason(&self) -> Option<String> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = { reader }.take();
        if let Some(reader) = reader {
            let _ = reader.join();
        }
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone()
    }
}
