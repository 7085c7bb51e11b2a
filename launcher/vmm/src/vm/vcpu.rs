//! A virtual processor and the thread that runs it.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::Event;
use super::exit::{Crash, Exit};
use super::kept::KeptWrites;
use super::kvm::KvmError;
use super::stats::Stats;
use crate::arch::x86_64::{cpuid, msr, regs};
use crate::devices::ports::{Ports, Request};
use crate::pci::PciBus;
use crate::sandbox;

/// `KVM_INTERNAL_ERROR_EMULATION`.
const EMULATION: u32 = 1;

/// How often a vCPU that has not yet heard a signal gets another: it may have
/// arrived just before the guest was entered.
const KICK_INTERVAL: Duration = Duration::from_millis(2);

/// What runs a guest's accesses.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) ports: Arc<Ports>,
    pub(super) pci: PciBus,
    pub(super) stats: Arc<Stats>,
    pub(super) sandbox: bool,
    /// What KVM keeps of writes to ports; set with the first processor, if it
    /// does.
    pub(super) kept: OnceLock<KeptWrites>,
}

impl Bus {
    /// Does what has to be done before an access to `port`.
    fn catch_up(&self, port: u16) {
        if KeptWrites::concern(port)
            && let Some(kept) = self.kept.get()
        {
            kept.take(|port, data| {
                let _ = self.ports.write(port, data, &self.pci);
            });
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Run,
    Hold,
    End,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// It does not run the guest and will not until wanted otherwise.
    rests: bool,
}

/// What the thread and who controls it share.
#[derive(Debug)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
    thread: AtomicI32,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rests while that is wanted; `false` if it is to end.
    fn may_run(&self, rested: impl Fn()) -> bool {
        let mut state = self.lock();
        while state.wanted == Wanted::Hold {
            if !state.rests {
                state.rests = true;
                rested();
            }
            self.changed.notify_all();
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.rests = state.wanted == Wanted::End;
        self.changed.notify_all();
        state.wanted == Wanted::Run
    }

    fn want(&self, wanted: Wanted) {
        let mut state = self.lock();
        // A thread that holds itself because the guest has ended may come too
        // late: it has been told to end already.
        if !(state.wanted == Wanted::End && wanted == Wanted::Hold) {
            state.wanted = wanted;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Signals the thread until it rests.
    fn kick(&self) {
        let mut state = self.lock();
        while !state.rests {
            signal_thread(self.thread.load(Ordering::Acquire));
            let waited = self.changed.wait_timeout(state, KICK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A processor: at rest with its descriptor here, or on its thread.
#[derive(Debug)]
pub(super) struct Vcpu {
    id: u8,
    control: Arc<Control>,
    fd: Option<VcpuFd>,
    thread: Option<JoinHandle<VcpuFd>>,
}

impl Vcpu {
    /// Makes processor `id`, as it is after reset. The first enters the kernel
    /// at `entry`; the others wait to be woken by it.
    pub(super) fn new(
        vm: &VmFd,
        id: u8,
        max_cpus: u8,
        supported: &[kvm_cpuid_entry2],
        entry: u64,
    ) -> Result<Self, KvmError> {
        let call = KvmError::call;
        let fd = vm
            .create_vcpu(id.into())
            .map_err(call("make a virtual processor"))?;
        let entries = cpuid::entries(supported, id, max_cpus);
        let cpuid = CpuId::from_entries(&entries).map_err(|error| KvmError::Call {
            what: "hold what a processor says of itself",
            error: io::Error::other(format!("{error:?}")),
        })?;
        // Before registers: they are checked against it.
        fd.set_cpuid2(&cpuid)
            .map_err(call("set what a processor says of itself"))?;
        set_msrs(&fd)?;
        if id == 0 {
            fd.set_fpu(&regs::floating_point())
                .map_err(call("set floating point registers"))?;
            fd.set_regs(&regs::general(entry))
                .map_err(call("set registers"))?;
            let mut special = fd.get_sregs().map_err(call("read control registers"))?;
            regs::special(&mut special);
            fd.set_sregs(&special)
                .map_err(call("set control registers"))?;
        }
        Ok(Self {
            id,
            control: Arc::new(Control {
                state: Mutex::new(State {
                    wanted: Wanted::Hold,
                    rests: true,
                }),
                changed: Condvar::new(),
                thread: AtomicI32::new(0),
            }),
            fd: Some(fd),
            thread: None,
        })
    }

    /// Has KVM keep writes to ports, if it can, while this has no thread.
    pub(super) fn keep_writes(&self, vm: &VmFd, bus: &Bus) -> Result<(), KvmError> {
        let Some(fd) = &self.fd else {
            return Ok(());
        };
        if let Some(kept) = KeptWrites::new(vm, fd)? {
            let _ = bus.kept.set(kept);
        }
        Ok(())
    }

    /// Starts its thread, which holds until [`resume`](Self::resume).
    pub(super) fn start(&mut self, bus: Arc<Bus>, events: Sender<Event>) -> io::Result<()> {
        let Some(fd) = self.fd.take() else {
            return Ok(());
        };
        install_handler();
        *self.control.lock() = State {
            wanted: Wanted::Hold,
            rests: false,
        };
        let control = Arc::clone(&self.control);
        let name = format!("vcpu{}", self.id);
        let thread = thread::Builder::new().name(name).spawn(move || {
            // SAFETY: takes nothing and cannot fail.
            let id = unsafe { libc::gettid() };
            control.thread.store(id, Ordering::Release);
            run(fd, &control, &bus, &events)
        })?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Lets it run the guest.
    pub(super) fn resume(&self) {
        self.control.want(Wanted::Run);
    }

    /// Asks it to hold; it does so at [`settle`](Self::settle) at the latest.
    pub(super) fn hold(&self) {
        self.control.want(Wanted::Hold);
    }

    /// Waits until it holds.
    pub(super) fn settle(&self) {
        if self.thread.is_some() {
            self.control.kick();
        }
    }

    /// Ends its thread and keeps the processor.
    pub(super) fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.control.want(Wanted::End);
            self.control.kick();
            self.fd = thread.join().ok();
        }
    }

    /// Whether it has a thread.
    pub(super) fn is_started(&self) -> bool {
        self.thread.is_some()
    }

    /// Its number.
    pub(super) fn id(&self) -> u8 {
        self.id
    }
}

fn set_msrs(fd: &VcpuFd) -> Result<(), KvmError> {
    for entry in msr::boot() {
        let what = "set model-specific registers";
        let msrs = Msrs::from_entries(&[entry]).map_err(|error| KvmError::Call {
            what,
            error: io::Error::other(format!("{error:?}")),
        })?;
        let count = fd.set_msrs(&msrs).map_err(KvmError::call(what))?;
        if count != 1 {
            crate::log::warn(format_args!("KVM does not know MSR {:#x}", entry.index));
        }
    }
    Ok(())
}

/// The thread: runs the guest and its accesses until told otherwise.
fn run(mut fd: VcpuFd, control: &Control, bus: &Bus, events: &Sender<Event>) -> VcpuFd {
    if bus.sandbox
        && let Err(error) = sandbox::vcpu_thread()
    {
        let crash = Crash::Sandbox(error.to_string());
        let _ = events.send(Event::Exit(Exit::Crashed(crash)));
        // Nothing but its end is left for it.
        control.want(Wanted::Hold);
        while control.may_run(|| {}) {
            control.want(Wanted::Hold);
        }
        return fd;
    }
    loop {
        // The guest's clock is told that it was held, or its watchdog would
        // bark at the jump.
        if !control.may_run(|| {
            let _ = fd.kvmclock_ctrl();
        }) {
            return fd;
        }
        bus.stats.mark(&bus.stats.entered_micros);
        let request = step(&mut fd, bus);
        let event = match request {
            None => continue,
            Some(Stop::Exit(exit)) => Event::Exit(exit),
            Some(Stop::Ejected(cpu)) => {
                let _ = events.send(Event::Ejected(cpu));
                continue;
            }
        };
        let _ = events.send(event);
        control.want(Wanted::Hold);
    }
}

enum Stop {
    Exit(Exit),
    Ejected(u8),
}

/// Enters the guest once and does what it asks for.
fn step(fd: &mut VcpuFd, bus: &Bus) -> Option<Stop> {
    let stats = &bus.stats;
    let crash = |crash| Some(Stop::Exit(Exit::Crashed(crash)));
    match fd.run() {
        Ok(VcpuExit::IoIn(port, data)) => {
            stats.count(&stats.port_reads);
            bus.catch_up(port);
            bus.ports.read(port, data, &bus.pci);
            None
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            stats.count(&stats.port_writes);
            bus.catch_up(port);
            bus.ports.write(port, data, &bus.pci).map(|r| match r {
                Request::PowerOff => Stop::Exit(Exit::PowerOff),
                Request::Reset => Stop::Exit(Exit::Reset),
                Request::Panicked => Stop::Exit(Exit::Panicked),
                Request::Ejected(cpu) => Stop::Ejected(cpu),
            })
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            stats.count(&stats.memory_reads);
            bus.pci.read_memory(address, data);
            None
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            stats.count(&stats.memory_writes);
            bus.pci.write_memory(address, data);
            None
        }
        Ok(VcpuExit::Shutdown) => crash(Crash::TripleFault),
        Ok(VcpuExit::FailEntry(reason, _)) => crash(Crash::Entry(reason)),
        Ok(VcpuExit::InternalError) => {
            // SAFETY: for this exit KVM has filled in this member of the
            // union, and any bits are a valid u32.
            let code = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
            crash(match code {
                EMULATION => Crash::Emulation,
                code => Crash::Internal(code),
            })
        }
        Ok(VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
            Some(Stop::Exit(Exit::PowerOff))
        }
        Ok(VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_RESET, _)) => {
            Some(Stop::Exit(Exit::Reset))
        }
        Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => None,
        Ok(other) => {
            let what = format!("unexpected exit {other:?}");
            crash(Crash::Run(what))
        }
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => {
                stats.count(&stats.interruptions);
                None
            }
            _ => crash(Crash::Run(crate::irq::io_error(error).to_string())),
        },
    }
}

/// The signal that has a vCPU leave the guest.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

extern "C" fn ignore(_: libc::c_int) {}

/// Has the signal interrupt system calls and do nothing else.
fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction, and the handler does nothing,
        // which is safe in any thread at any time. Without SA_RESTART, system
        // calls end with EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(kick_signal(), &action, std::ptr::null_mut());
        }
    });
}

/// Signals a thread of this process; one that has not begun or has ended is
/// not there to hear it.
fn signal_thread(thread: libc::pid_t) {
    if thread != 0 {
        // SAFETY: signals a thread of our own process, with a signal that has a
        // handler; a number that no thread has is an error.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_was_told_to_end_does_not_hold_itself_for_ever() {
        let control = Control {
            state: Mutex::new(State {
                wanted: Wanted::Run,
                rests: false,
            }),
            changed: Condvar::new(),
            thread: AtomicI32::new(0),
        };
        assert!(control.may_run(|| {}));
        control.want(Wanted::End);
        // What the thread does when it has met the guest's end, and only now.
        control.want(Wanted::Hold);
        assert!(!control.may_run(|| {}));
    }
}
