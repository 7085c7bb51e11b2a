use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use super::*;
use crate::virtio::testing::{Driver, Inline, eventually, no_sandbox, readable, writable};

fn driver() -> Driver {
    Driver::new(0x40_0000, QUEUES, features::COMMON)
}

/// The host's end, and a device on the other.
fn device(driver: &Driver) -> (UnixStream, Inline<ConsoleHandler>) {
    let (host, guest) = UnixStream::pair().unwrap();
    let streams = Streams {
        input: Some(guest.try_clone().unwrap().into()),
        output: Some(guest.into()),
    };
    let handler = ConsoleHandler::new(streams, Arc::default()).unwrap();
    (host, Inline::start(handler, driver.activation()))
}

#[test]
fn it_talks_both_ways() {
    let mut driver = driver();
    let free = driver.free();
    let (mut host, guest) = UnixStream::pair().unwrap();
    let streams = Streams {
        input: Some(guest.try_clone().unwrap().into()),
        output: Some(guest.into()),
    };
    let size = Size {
        columns: 80,
        rows: 25,
    };
    let mut console = Console::new("console0", streams, size, &no_sandbox()).unwrap();
    host.write_all(b"early").unwrap();
    console.activate(driver.activation()).unwrap();
    let [receive, transmit] = &mut driver.queues[..] else {
        unreachable!()
    };
    receive.add(&[writable(free, 3)]);
    receive.add(&[writable(free + 16, 64)]);
    receive.ring();
    assert_eq!(receive.wait_used(), (0, 3));
    assert_eq!(receive.wait_used(), (1, 2));
    assert_eq!(receive.read(free, 3), b"ear");
    assert_eq!(receive.read(free + 16, 2), b"ly");

    receive.add(&[writable(free, 64)]);
    receive.ring();
    host.write_all(b"ls\n").unwrap();
    assert_eq!(receive.wait_used(), (2, 3));

    transmit.write(free + 0x100, b"login: ");
    transmit.add(&[readable(free + 0x100, 5), readable(free + 0x105, 2)]);
    transmit.ring();
    assert_eq!(transmit.wait_used(), (0, 0));
    let mut got = [0; 7];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"login: ");
    assert_eq!(console.stats().from_guest_bytes.get(), 7);
    assert_eq!(console.stats().to_guest_bytes.get(), 8);
}

#[test]
fn its_size_is_in_the_configuration_and_changes_are_told() {
    let size = Size {
        columns: 80,
        rows: 25,
    };
    let mut console = Console::new("console0", Streams::default(), size, &no_sandbox()).unwrap();
    let mut config = [0xff; 16];
    console.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    console.read_config(2, &mut config[..2]);
    assert_eq!(config[..2], [25, 0]);
    console.read_config(u64::MAX, &mut config);
    assert_eq!(config, [0; 16]);

    let driver = driver();
    console.activate(driver.activation()).unwrap();
    let handle = console.handle();
    handle.resize(size).unwrap();
    assert_eq!(
        driver.interrupts.config.load(Ordering::SeqCst),
        0,
        "no change"
    );
    handle
        .resize(Size {
            columns: 300,
            rows: 90,
        })
        .unwrap();
    assert_eq!(driver.interrupts.config.load(Ordering::SeqCst), 1);
    console.read_config(0, &mut config[..4]);
    assert_eq!(config[..4], [44, 1, 90, 0]);
    console.reset();
    handle.resize(size).unwrap();
    assert_eq!(
        driver.interrupts.config.load(Ordering::SeqCst),
        1,
        "nobody there"
    );
}

#[test]
fn a_slow_reader_slows_the_guest_and_loses_nothing() {
    let mut driver = driver();
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    let data: Vec<u8> = (0..0x20_0000u32).map(|i| (i / 7) as u8).collect();
    driver.queues[1].write(free, &data);
    driver.queues[1].add(&[readable(free, data.len() as u32)]);
    let mut got = Vec::new();
    let mut piece = vec![0; 0x1_0000];
    host.set_nonblocking(true).unwrap();
    while driver.queues[1].used().is_none() {
        device.event(TRANSMIT);
        while let Ok(n) = host.read(&mut piece) {
            got.extend_from_slice(&piece[..n]);
        }
    }
    assert!(got == data, "{} bytes of {}", got.len(), data.len());
    assert_eq!(device.fault, None);
}

#[test]
fn output_with_no_reader_is_dropped() {
    let mut driver = driver();
    let free = driver.free();
    let (host, mut device) = device(&driver);
    drop(host);
    for _ in 0..2 {
        driver.queues[1].add(&[readable(free, 100)]);
        device.event(TRANSMIT);
        assert!(driver.queues[1].used().is_some());
    }
    // And there will be no input.
    driver.queues[0].add(&[writable(free, 100)]);
    device.event(RECEIVE);
    device.event(INPUT);
    assert_eq!(driver.queues[0].used(), None);
    assert_eq!(device.fault, None);
}

#[test]
fn output_to_a_file_needs_no_waiting() {
    use std::io::Seek;
    let mut file = tempfile::tempfile().unwrap();
    let streams = Streams {
        input: None,
        output: Some(file.try_clone().unwrap().into()),
    };
    let mut console = Console::new("console0", streams, Size::default(), &no_sandbox()).unwrap();
    let mut driver = driver();
    let free = driver.free();
    console.activate(driver.activation()).unwrap();
    let data = vec![b'x'; 300_000];
    driver.queues[1].write(free, &data);
    driver.queues[1].add(&[readable(free, 300_000)]);
    driver.queues[1].ring();
    driver.queues[1].wait_used();
    file.rewind().unwrap();
    let mut got = Vec::new();
    file.read_to_end(&mut got).unwrap();
    assert!(got == data);
}

#[test]
fn chains_of_the_wrong_direction_are_errors() {
    for (index, piece) in [
        (RECEIVE, readable(0x8000, 1)),
        (TRANSMIT, writable(0x8000, 1)),
    ] {
        let mut driver = driver();
        let (mut host, mut device) = device(&driver);
        host.write_all(b"x").unwrap();
        driver.queues[usize::from(index)].add(&[piece]);
        device.event(index);
        assert!(device.fault.unwrap().contains("only"));
    }
}

#[test]
fn a_reset_comes_through_while_a_reader_blocks() {
    let driver = driver();
    let free = driver.free();
    let mut driver = driver;
    let (host, guest) = UnixStream::pair().unwrap();
    let streams = Streams {
        input: None,
        output: Some(guest.into()),
    };
    let mut console = Console::new("console0", streams, Size::default(), &no_sandbox()).unwrap();
    console.activate(driver.activation()).unwrap();
    driver.queues[1].add(&[readable(free, 0x30_0000)]);
    driver.queues[1].ring();
    let stats = console.stats();
    eventually("something is sent", || {
        let mut byte = [0];
        host.set_nonblocking(true).unwrap();
        (&host).read(&mut byte).is_ok()
    });
    console.reset();
    assert_eq!(stats.from_guest.get(), 0, "the chain was not finished");
    assert_eq!(driver.queues[1].used(), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_guest_and_host_do_is_harmless(
        bytes in proptest::collection::vec(0u8..=255, 0..3000),
    ) {
        random::play(&bytes);
    }
}
