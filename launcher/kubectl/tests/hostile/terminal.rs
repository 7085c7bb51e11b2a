//! A terminal with a program in it, for the tests of the console here and on a
//! node.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal, and the program that was started in it.
pub(crate) struct Terminal {
    screen: File,
    keyboard: File,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
    program: Child,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Terminal {
    /// Runs a program in a new one.
    pub(crate) fn run(mut program: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let name = std::ffi::OsStr::from_bytes(name.as_bytes());
        let screen = File::options().read(true).write(true).open(name).unwrap();
        let before = tcgetattr(&screen).unwrap();
        let same = || OwnedFd::from(screen.try_clone().unwrap());
        program.stdin(same()).stdout(same()).stderr(same());
        let program = program.spawn().unwrap();
        let keyboard = File::from(keyboard);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (keyboard.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            screen,
            keyboard,
            before,
            shown,
            program,
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until this is shown.
    pub(crate) fn until(&self, words: &str) {
        let start = Instant::now();
        while !self.shown().contains(words) {
            assert!(start.elapsed() < PATIENCE, "{words:?}: {}", self.shown());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types.
    pub(crate) fn write(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.program.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end: whether it was a success, and all that was shown.
    pub(crate) fn end(&mut self, name: &str) -> (bool, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                break status;
            }
            let shown = self.shown();
            assert!(start.elapsed() < PATIENCE, "{name} does not end: {shown}");
            thread::sleep(Duration::from_millis(20));
        };
        // What was written last is read when this has gone the same way.
        (&self.screen).write_all(b"\n(end)").unwrap();
        self.until("(end)");
        let shown = self.shown();
        let (shown, _) = shown.rsplit_once("(end)").unwrap();
        (status.success(), shown.to_owned())
    }

    /// Checks that keys are passed on as they are.
    pub(crate) fn assert_raw(&self, name: &str) {
        let modes = tcgetattr(&self.screen).unwrap().local_modes;
        let line = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(!modes.intersects(line), "{name}: {modes:?}");
    }

    /// Checks that the terminal is in the mode in which it was.
    pub(crate) fn assert_as_before(&self, name: &str) {
        let (now, before) = (tcgetattr(&self.screen).unwrap(), &self.before);
        let modes = |t: &Termios| {
            (
                t.input_modes,
                t.output_modes,
                t.control_modes,
                t.local_modes,
            )
        };
        assert_eq!(modes(&now), modes(before), "{name}");
    }
}
