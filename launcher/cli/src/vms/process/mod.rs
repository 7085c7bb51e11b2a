//! The process that runs one machine.
//!
//! The command that starts it has prepared the machine's folder and gives it
//! a socket as standard input, over which [`events`](super::events) go, and
//! the lock on the folder as standard output. It opens the disks, waits for
//! the word to start, runs the guest, and clears up.

mod api;
mod confinement;
mod console;
mod control;
mod held;
mod kvm;
mod memory;
mod nbd;
#[cfg(any(test, feature = "fuzzing"))]
mod obedient;
pub(crate) mod passt;
mod qemu;
mod qemu_memory;
mod qmp;
mod ready;

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGTERM};

use self::confinement::Confinement;
use self::console::Console;
use self::control::Control;
use super::block::{self, Opened};
use super::events::{Command, Event, Receiver, Sender};
use super::exit::End;
use super::kernel::Payload;
use super::place::{Place, Places};
use super::spec::{Accel, Spec};

#[cfg(feature = "fuzzing")]
pub use self::api::fuzzed as control_api;

/// Least memory that a machine is given, in bytes.
const LEAST_MEMORY: u64 = 64 << 20;

/// A machine that is about to run.
pub(crate) struct Prepared {
    spec: Spec,
    place: Place,
    /// Its disks, the one that it boots from first.
    disks: Vec<Opened>,
    payload: Payload,
    console: Console,
    control: Arc<Control>,
    confinement: Confinement,
}

/// Tells the command that started this process, while there is one.
#[derive(Debug, Clone)]
pub(crate) struct Teller(Arc<Mutex<Sender>>);

impl Teller {
    fn tell(&self, event: &Event) {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may be left to hear it.
        let _ = sender.send(event);
    }
}

/// Runs the machine `name`.
pub(crate) fn main(name: &str) -> ExitCode {
    // Ctrl-C on the user's terminal is not for this process.
    let _ = rustix::process::setsid();
    let stream = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(error) => {
            eprintln!("bootwright: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (teller, receiver) = match stream.try_clone() {
        Ok(other) => (
            Teller(Arc::new(Mutex::new(Sender::new(stream)))),
            Receiver::new(other),
        ),
        Err(error) => {
            eprintln!("bootwright: {error}");
            return ExitCode::FAILURE;
        }
    };
    match serve(name, &teller, receiver) {
        Ok(end) => {
            // Whoever started it may have gone: the machine's log has it, too.
            if let Some(message) = end.message() {
                eprintln!("bootwright: {message}");
            }
            teller.tell(&Event::Ended(end.clone()));
            ExitCode::from(end.status())
        }
        Err(error) => {
            let message = crate::explained(&error);
            eprintln!("bootwright: {message}");
            teller.tell(&Event::Failed(message));
            ExitCode::from(super::exit::NOT_STARTED)
        }
    }
}

fn serve(name: &str, teller: &Teller, receiver: Receiver) -> anyhow::Result<End> {
    let place = Places::from_env()?.place(name);
    let spec = Spec::load(&place.state)?;
    let result = prepare(spec.clone(), place.clone(), teller, receiver).and_then(|machine| {
        match machine.spec.accel {
            Accel::Kvm => kvm::run(machine, teller),
            Accel::Tcg => qemu::run(machine, teller),
        }
    });
    let cleared = match spec.ephemeral {
        true => place.remove(),
        false => place.remove_runtime(),
    };
    if let Err(error) = cleared {
        teller.tell(&Event::Warning(crate::explained(&error)));
    }
    result
}

/// As many open files as the system lets this process have: a disk made of a
/// directory may have many.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays as it is, less is open at once.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Opens all that the machine is made of and waits for the word to start.
fn prepare(
    spec: Spec,
    place: Place,
    teller: &Teller,
    receiver: Receiver,
) -> anyhow::Result<Prepared> {
    raise_limit();
    let disks = spec.disks.iter();
    let disks = disks.map(|disk| block::open(disk, &spec.backing, &place));
    let disks = disks.collect::<anyhow::Result<Vec<_>>>()?;
    let root = disks.first();
    let payload = Payload::load(&spec.boot, root, root.is_some_and(|root| root.fresh))?;
    let least = payload.least_memory()?.max(LEAST_MEMORY);
    if spec.memory < least {
        anyhow::bail!(
            "--memory: {} is too little, this kernel and its initrd need at least {}",
            crate::args::ByteSize(spec.memory),
            crate::args::ByteSize(least.next_multiple_of(1 << 20))
        );
    }
    let confinement = Confinement::of(&spec, &place);
    let console = Console::start(
        &place.runtime.join("console.sock"),
        &place.state.join("console.log"),
        &confinement,
    )?;
    let control = Arc::new(Control::new(&spec));
    let socket = place.runtime.join("control.sock");
    api::serve(&socket, Arc::clone(&control), confinement.clone())?;
    let start = listen(receiver, Arc::clone(&control), confinement.clone())?;
    on_signals(Arc::clone(&control), confinement.clone())?;
    teller.tell(&Event::Prepared);
    start
        .recv()
        .context("the command that started the machine has ended")?;
    Ok(Prepared {
        spec,
        place,
        disks,
        payload,
        console,
        control,
        confinement,
    })
}

/// Does what the command that started this process says; when it is gone, so
/// is the machine, unless the command said otherwise.
fn listen(
    mut receiver: Receiver,
    control: Arc<Control>,
    confinement: Confinement,
) -> io::Result<mpsc::Receiver<()>> {
    let (start, started) = mpsc::channel();
    thread::Builder::new().name("link".into()).spawn(move || {
        confinement.enter();
        let mut detached = false;
        while let Ok(Some(command)) = receiver.next::<Command>() {
            match command {
                Command::Detach => detached = true,
                Command::Start => drop(start.send(())),
                Command::PowerButton => control.power_button(),
                Command::Kill => control.kill(),
            }
        }
        drop(start);
        if !detached {
            control.kill();
        }
    })?;
    Ok(started)
}

/// A signal that asks the process to end presses the power button; the next
/// one ends it.
fn on_signals(control: Arc<Control>, confinement: Confinement) -> io::Result<()> {
    let (mut reader, writer) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            confinement.enter();
            while io::Read::read_exact(&mut reader, &mut [0]).is_ok() {
                control.power_button();
            }
        })?;
    Ok(())
}
