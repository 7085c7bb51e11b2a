//! Each test confines a thread of a process of its own, for confinement cannot
//! be undone: the test's own binary, started again with a variable that says
//! what to do.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use super::*;

const VARIABLE: &str = "BOOTWRIGHT_SANDBOX_TEST";

/// Runs `work` on a thread of another process; the test is called `test`.
fn apart(test: &str, work: impl FnOnce() + Send + 'static) -> Option<Output> {
    apart_with_folder(test, |_| work())
}

/// The same with a folder, which this process removes: the other may not.
fn apart_with_folder(test: &str, work: impl FnOnce(PathBuf) + Send + 'static) -> Option<Output> {
    if let Some(folder) = std::env::var_os(VARIABLE) {
        std::thread::spawn(|| work(folder.into())).join().unwrap();
        // Not through the test harness: its thread is not confined, but what
        // comes of `work` is all that counts.
        std::process::exit(0);
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("sandbox::tests::{test}")])
        .args(["--nocapture", "--test-threads=1"])
        .env(VARIABLE, folder.path())
        .output()
        .unwrap();
    Some(output)
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn refused(output: &Output, call: libc::c_long) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(EXIT_STATUS.into()), "{text}");
    assert!(
        text.contains(&format!("refused system call {call} ")),
        "{text}"
    );
}

#[test]
fn a_processor_cannot_open_files() {
    let output = apart("a_processor_cannot_open_files", || {
        vcpu_thread().unwrap();
        let _ = File::open("/etc/passwd");
    });
    refused(&output.unwrap(), libc::SYS_openat);
}

#[test]
fn a_processor_cannot_make_sockets() {
    let output = apart("a_processor_cannot_make_sockets", || {
        vcpu_thread().unwrap();
        // SAFETY: takes numbers only.
        let _ = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    });
    refused(&output.unwrap(), libc::SYS_socket);
}

#[test]
fn a_processor_can_make_no_other_requests_than_its_own() {
    let output = apart(
        "a_processor_can_make_no_other_requests_than_its_own",
        || {
            vcpu_thread().unwrap();
            // SAFETY: the descriptor is none; TIOCSTI would take a pointer.
            let _ = unsafe { libc::ioctl(-1, libc::TIOCSTI, 0) };
        },
    );
    refused(&output.unwrap(), libc::SYS_ioctl);
}

#[test]
fn a_processor_cannot_make_code() {
    let output = apart("a_processor_cannot_make_code", || {
        vcpu_thread().unwrap();
        // SAFETY: a new mapping, which nobody uses.
        let _ = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
    });
    refused(&output.unwrap(), libc::SYS_mmap);
}

#[test]
fn a_device_can_use_what_it_holds_and_start_nothing() {
    let name = "a_device_can_use_what_it_holds_and_start_nothing";
    let output = apart(name, || {
        use std::io::{Read, Write};
        use std::os::unix::fs::FileExt;
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        device_thread(&Files::default()).unwrap();
        a.write_all(b"hello").unwrap();
        let mut five = [0; 5];
        b.read_exact(&mut five).unwrap();
        file.write_all_at(&five, 4096).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4101);
        // Memory comes and goes.
        drop(vec![1u8; 64 << 20]);
        println!("it works");
        let _ = Command::new("true").status();
    });
    let output = output.unwrap();
    assert!(text(&output).contains("it works"), "{}", text(&output));
    // The C library holds back signals while it starts a program, so that the
    // process ends without a word.
    assert_eq!(output.status.signal(), Some(libc::SIGSYS));
}

#[test]
fn a_device_opens_the_files_of_a_plan_when_they_are_read() {
    use std::os::unix::fs::MetadataExt as _;

    use bootwright_disk::plan::{Extent, PlanBuilder, Source, SourceId, SourceKind};

    use crate::block::{PlanDisk, read_at};

    let name = "a_device_opens_the_files_of_a_plan_when_they_are_read";
    let output = apart_with_folder(name, |dir| {
        let path = dir.join("file");
        std::fs::write(&path, [7; 4096]).unwrap();
        let metadata = path.metadata().unwrap();
        let kind = SourceKind::HostFile {
            device: metadata.dev(),
            inode: metadata.ino(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        };
        let len = 4096;
        let mut plan = PlanBuilder::new(vec![Source { kind, path, len }]);
        plan.put(Extent::source(0, len, SourceId(0), 0));
        let disk = PlanDisk::new(plan.finish(len).unwrap()).unwrap();
        let read = disk.folders();
        assert_eq!(read, [dir]);
        device_thread(&Files {
            read,
            ..Files::default()
        })
        .unwrap();
        let mut bytes = [0; 4096];
        read_at(&disk, 0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
        println!("it works");
    });
    let output = output.unwrap();
    assert!(text(&output).contains("it works"), "{}", text(&output));
}

#[test]
fn a_device_cannot_reach_the_network() {
    let output = apart("a_device_cannot_reach_the_network", || {
        device_thread(&Files::default()).unwrap();
        let _ = std::net::TcpListener::bind("127.0.0.1:0");
    });
    refused(&output.unwrap(), libc::SYS_socket);
}

#[test]
fn control_makes_threads_that_can_be_confined_further() {
    let name = "control_makes_threads_that_can_be_confined_further";
    let output = apart(name, || {
        control_thread(&Files::default()).unwrap();
        let thread = std::thread::spawn(|| {
            vcpu_thread().unwrap();
            println!("it works");
            let _ = UnixStream::pair();
        });
        thread.join().unwrap();
    });
    let output = output.unwrap();
    assert!(text(&output).contains("it works"), "{}", text(&output));
    refused(&output, libc::SYS_socketpair);
}

#[test]
fn control_cannot_start_programs() {
    let output = apart("control_cannot_start_programs", || {
        control_thread(&Files::default()).unwrap();
        // The child is a process of its own, and ends for itself.
        let status = Command::new("/bin/true").status();
        assert!(!status.is_ok_and(|status| status.success()));
        println!("refused");
    });
    let output = output.unwrap();
    assert!(text(&output).contains("refused"), "{}", text(&output));
}

#[test]
fn control_reaches_its_own_files_only() {
    let output = apart_with_folder("control_reaches_its_own_files_only", |dir| {
        let at = |name: &str| dir.join(name);
        for folder in ["read", "write", "other"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("file"), folder).unwrap();
        }
        let files = Files {
            read: vec![at("read"), at("missing")],
            write: vec![at("write")],
            ..Files::default()
        };
        control_thread(&files).unwrap();
        let denied = |result: io::Result<()>| {
            result.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
        };
        let read = |folder: &str| std::fs::read(at(folder).join("file")).map(drop);
        let write = |folder: &str| std::fs::write(at(folder).join("new"), "");
        let (r, w) = (
            ["read", "write", "other"].map(read),
            ["read", "write", "other"].map(write),
        );
        assert!(r[0].is_ok() && r[1].is_ok() && w[1].is_ok(), "{r:?} {w:?}");
        let [_, _, other] = r;
        let [into_read, _, into_other] = w;
        let confined = [other, into_read, into_other].map(denied);
        println!("confined: {confined:?}");
    });
    let output = output.unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    // SAFETY: asks for the version only, with no structure.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            1,
        )
    };
    match version > 0 {
        true => assert!(text.contains("confined: [true, true, true]"), "{text}"),
        false => assert!(text.contains("confined:"), "no Landlock here: {text}"),
    }
}

#[test]
fn a_confined_thread_has_no_capabilities_and_gains_none() {
    let name = "a_confined_thread_has_no_capabilities_and_gains_none";
    let output = apart(name, || {
        privileges::drop_all().unwrap();
        files::restrict(&Files {
            read: vec!["/proc".into()],
            ..Files::default()
        })
        .unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        println!("{status}");
    });
    let text = text(&output.unwrap());
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(text.contains(line), "no `{line}` in {text}");
    }
}

#[test]
fn a_process_keeps_the_descriptors_that_it_names() {
    let output = apart("a_process_keeps_the_descriptors_that_it_names", || {
        use std::os::fd::IntoRawFd;
        let kept = File::open("/dev/null").unwrap().into_raw_fd();
        let lost = File::open("/dev/null").unwrap().into_raw_fd();
        process(&[kept]).unwrap();
        // SAFETY: asks about numbers.
        let there = [kept, lost].map(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0);
        println!("there: {there:?}");
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        println!("{limits}");
    });
    let text = text(&output.unwrap());
    assert!(text.contains("there: [true, false]"), "{text}");
    let core = text.lines().find(|l| l.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
}

#[test]
fn namespaces_are_pretended_under_a_filter_that_refuses_them() {
    let output = apart(
        "namespaces_are_pretended_under_a_filter_that_refuses_them",
        || {
            // As container runtimes' default profiles do.
            let rules = [
                (libc::SYS_unshare, Vec::new()),
                (libc::SYS_mount, Vec::new()),
            ];
            let filter = seccompiler::SeccompFilter::new(
                rules.into(),
                seccompiler::SeccompAction::Allow,
                seccompiler::SeccompAction::Errno(libc::EPERM as u32),
                seccompiler::TargetArch::x86_64,
            );
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
            // SAFETY: takes a number only.
            let unshare = || unsafe { libc::unshare(libc::CLONE_NEWUSER) };
            assert_eq!(unshare(), -1);
            pretend_namespaces().unwrap();
            let before = std::fs::read_link("/proc/thread-self/ns/user").unwrap();
            assert_eq!(unshare(), 0);
            let after = std::fs::read_link("/proc/thread-self/ns/user").unwrap();
            assert_eq!(before, after);
            eprintln!("pretended");
        },
    );
    let output = output.unwrap();
    assert!(text(&output).contains("pretended"), "{}", text(&output));
}
