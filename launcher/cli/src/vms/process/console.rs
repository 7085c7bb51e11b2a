//! A machine's console: a log, and a socket for those who want to see it.
//!
//! What the guest writes is collected and handed on by one thread to the log
//! and to all who are connected; who connects is first shown the last of what
//! was written before. A reader that does not read is left behind: the guest
//! waits for it for a moment only.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use super::confinement::Confinement;

/// What is shown to those who connect, in bytes.
const HISTORY: usize = 64 << 10;

/// What may wait to be handed on; then the guest waits.
const MAX_PENDING: usize = 1 << 20;

/// How long a reader may keep everyone waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Length of the log in bytes at which a new one is begun; one old is kept.
const MAX_LOG: u64 = 8 << 20;

/// What is kept of what is typed before the guest runs, in bytes.
const MAX_EARLY: usize = 4096;

/// Most who are connected at once.
const MAX_CLIENTS: usize = 16;

/// Takes what is typed.
pub(super) type Input = Box<dyn FnMut(&[u8]) + Send>;

/// A console.
#[derive(Debug)]
pub(super) struct Console {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    input: Mutex<Typed>,
}

/// Where what is typed goes; kept until that is known.
enum Typed {
    Early(Vec<u8>),
    To(Input),
}

impl Default for Typed {
    fn default() -> Self {
        Self::Early(Vec::new())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    history: VecDeque<u8>,
    clients: Vec<UnixStream>,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's end.
#[derive(Debug, Clone)]
pub(super) struct Output(Arc<Shared>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.0.state);
        while state.pending.len() >= MAX_PENDING && !state.ended {
            state = self.0.wait(state);
        }
        state.pending.extend(bytes);
        self.0.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Console {
    /// A console that listens at `socket` and keeps its log at `log`.
    pub(super) fn start(
        socket: &Path,
        log: &Path,
        confinement: &Confinement,
    ) -> anyhow::Result<Self> {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let log = Log::open(log).with_context(|| format!("cannot write {}", log.display()))?;
        let shared = Arc::new(Shared::default());
        let (for_thread, confined) = (Arc::clone(&shared), confinement.clone());
        let thread = thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                confined.enter();
                hand_on(&for_thread, log);
            })?;
        let (for_clients, confined) = (Arc::clone(&shared), confinement.clone());
        // Waits in accept until the process ends.
        thread::Builder::new()
            .name("console-accept".into())
            .spawn(move || {
                confined.enter();
                for stream in listener.incoming().flatten() {
                    if let Err(error) = welcome(&for_clients, stream) {
                        eprintln!("console: {error}");
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Where the guest writes to.
    pub(super) fn output(&self) -> Output {
        Output(Arc::clone(&self.shared))
    }

    /// Says where what is typed goes.
    pub(super) fn set_input(&self, input: Input) {
        let mut input = input;
        let mut typed = lock(&self.shared.input);
        if let Typed::Early(bytes) = &*typed
            && !bytes.is_empty()
        {
            input(bytes);
        }
        *typed = Typed::To(input);
    }

    /// Hands on what is left and sends everyone away.
    pub(super) fn finish(mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hands on what the guest writes until the console ends.
fn hand_on(shared: &Shared, mut log: Log) {
    loop {
        let mut state = lock(&shared.state);
        while state.pending.is_empty() && !state.ended {
            state = shared.wait(state);
        }
        if state.pending.is_empty() {
            for client in state.clients.drain(..) {
                // Ends the threads that listen to it, too.
                let _ = client.shutdown(Shutdown::Both);
            }
            return;
        }
        let bytes = std::mem::take(&mut state.pending);
        let mut clients = std::mem::take(&mut state.clients);
        drop(state);
        shared.changed.notify_all();
        log.write(&bytes);
        clients.retain_mut(|client| client.write_all(&bytes).is_ok());
        let mut state = lock(&shared.state);
        state.history.extend(&bytes);
        let excess = state.history.len().saturating_sub(HISTORY);
        state.history.drain(..excess);
        // Those who came meanwhile have seen the history without this.
        for mut client in std::mem::take(&mut state.clients) {
            if client.write_all(&bytes).is_ok() {
                clients.push(client);
            }
        }
        state.clients = clients;
    }
}

/// Shows a newcomer the history and listens to what they type.
fn welcome(shared: &Arc<Shared>, mut stream: UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = stream.try_clone()?;
    let mut state = lock(&shared.state);
    if state.clients.len() >= MAX_CLIENTS {
        return Ok(());
    }
    let (a, b) = state.history.as_slices();
    stream.write_all(a)?;
    stream.write_all(b)?;
    state.clients.push(stream);
    drop(state);
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("console-input".into())
        .spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let typed = buffer.get(..count).unwrap_or_default();
                match &mut *lock(&shared.input) {
                    Typed::To(input) => input(typed),
                    Typed::Early(bytes) if bytes.len() < MAX_EARLY => bytes.extend(typed),
                    Typed::Early(_) => {}
                }
            }
        })?;
    Ok(())
}

/// The log. That it cannot be written does not concern the guest.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            len: file.metadata()?.len(),
            file,
        })
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.len >= MAX_LOG {
            let old = self.path.with_extension("log.1");
            if fs::rename(&self.path, old).is_ok()
                && let Ok(file) = File::create(&self.path)
            {
                self.file = file;
                self.len = 0;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.len += bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_comes_late_sees_what_was_said_and_everyone_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, log) = (dir.path().join("c.sock"), dir.path().join("console.log"));
        let console = Console::start(&socket, &log, &Confinement::none()).unwrap();
        let (sender, typed) = mpsc::channel();
        console.set_input(Box::new(move |bytes| sender.send(bytes.to_vec()).unwrap()));
        let mut early = UnixStream::connect(&socket).unwrap();
        console.output().write_all(b"hello, ").unwrap();
        let mut buffer = [0; 7];
        early.read_exact(&mut buffer).unwrap();
        let mut late = UnixStream::connect(&socket).unwrap();
        late.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello, ");
        late.write_all(b"ls\n").unwrap();
        assert_eq!(typed.recv().unwrap(), b"ls\n");
        console.output().write_all(b"world").unwrap();
        console.finish();
        for mut client in [early, late] {
            let mut rest = String::new();
            client.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "world");
        }
        assert_eq!(fs::read(&log).unwrap(), b"hello, world");
    }
}
