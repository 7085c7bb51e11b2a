//! How connections begin and end.

use super::*;

#[test]
fn the_host_reaches_a_port_of_the_guest() {
    let mut guest = Guest::new();
    guest.give(64);
    let (mut host, port) = guest.connected(22);
    assert!(port >= 1 << 30);
    host.write_all(b"SSH-2.0-host\r\n").unwrap();
    let (header, data) = guest.expect(op::RW);
    assert_eq!(data, b"SSH-2.0-host\r\n");
    assert_eq!((header.src_port.get(), header.dst_port.get()), (port, 22));
    assert_eq!(header.kind.get(), STREAM);
    guest.send(op::RW, (22, port), 0, b"SSH-2.0-guest\r\n");
    let mut got = [0; 15];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"SSH-2.0-guest\r\n");
    assert_eq!(guest.metrics.connections.get(), 1);
    assert_eq!(guest.metrics.to_guest.get(), 1);
    // The host hangs up, and the guest agrees.
    drop(host);
    let (header, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(header.flags.get(), NOTHING);
    guest.send(op::RST, (22, port), 0, &[]);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
    assert_eq!(guest.metrics.stats.from_guest_bytes.get(), 15);
    assert_eq!(guest.reads(), 14);
}

#[test]
fn what_a_host_says_before_the_guest_accepts_arrives_afterwards() {
    let mut guest = Guest::new();
    guest.give(8);
    let mut host = UnixStream::connect(guest.path()).unwrap();
    host.write_all(b"CONN").unwrap();
    guest.silent();
    host.write_all(b"ECT 80\nGET /").unwrap();
    let (header, _) = guest.expect(op::REQUEST);
    guest.silent();
    guest.send(op::RESPONSE, (80, header.src_port.get()), 0, &[]);
    let (_, data) = guest.expect(op::RW);
    assert_eq!(data, b"GET /");
}

#[test]
fn a_port_of_the_guest_without_a_listener_closes_the_socket() {
    let mut guest = Guest::new();
    guest.give(8);
    let mut host = guest.call(23);
    let (header, _) = guest.expect(op::REQUEST);
    guest.send(op::RST, (23, header.src_port.get()), 0, &[]);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
}

#[test]
fn who_does_not_greet_is_shown_out() {
    let mut guest = Guest::new();
    guest.give(8);
    let mut rude = UnixStream::connect(guest.path()).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let silent = UnixStream::connect(guest.path()).unwrap();
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 1);
    assert!(matches!(rude.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(guest.metrics.refused.get(), 1);
    drop(silent);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
    assert_eq!(guest.device.handler.deadline(), None);
}

#[test]
fn time_runs_out_for_requests_and_for_ends_that_the_guest_does_not_answer() {
    let mut guest = Guest::new();
    guest.give(16);
    let mut host = guest.call(22);
    guest.expect(op::REQUEST);
    assert!(guest.device.handler.deadline().is_some());
    guest.pass(table::PATIENCE);
    guest.expect(op::RST);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    // A connection has all the time in the world, until its host closes it.
    let (host, _) = guest.connected(22);
    assert_eq!(guest.device.handler.deadline(), None);
    drop(host);
    guest.expect(op::SHUTDOWN);
    guest.pass(table::PATIENCE);
    guest.expect(op::RST);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
    // And nobody waits for who does not greet.
    let mut silent = UnixStream::connect(guest.path()).unwrap();
    guest.silent();
    guest.pass(table::PATIENCE);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_host_that_gives_up_takes_its_request_back() {
    let mut guest = Guest::new();
    // Before the guest has heard of it, and after.
    drop(guest.call(22));
    guest.device.settle();
    assert_eq!(guest.metrics.connections.get(), 0);
    guest.give(8);
    guest.silent();
    let host = guest.call(22);
    guest.expect(op::REQUEST);
    drop(host);
    guest.expect(op::RST);
    guest.silent();
}

#[test]
fn the_guest_reaches_a_socket_of_the_host() {
    let mut guest = Guest::new();
    guest.give(64);
    let listener = UnixListener::bind(port_path(&guest.path(), 9999)).unwrap();
    guest.send(op::REQUEST, (1024, 9999), 0, &[]);
    let (mut host, _) = listener.accept().unwrap();
    let (header, _) = guest.expect(op::RESPONSE);
    assert_eq!((header.src_port.get(), header.dst_port.get()), (9999, 1024));
    guest.send(op::RW, (1024, 9999), 0, b"READY=1\n");
    guest.send(op::SHUTDOWN, (1024, 9999), NOTHING, &[]);
    guest.expect(op::RST);
    let mut got = String::new();
    host.read_to_string(&mut got).unwrap();
    assert_eq!(got, "READY=1\n");
    assert_eq!(guest.metrics.to_host.get(), 1);
    assert_eq!(guest.metrics.connections.get(), 0);
    // The same ports can be used again.
    guest.send(op::REQUEST, (1024, 9999), 0, &[]);
    guest.expect(op::RESPONSE);
}

#[test]
fn a_port_of_the_host_that_nobody_serves_is_refused() {
    let mut guest = Guest::new();
    guest.give(8);
    guest.send(op::REQUEST, (1024, 80), 0, &[]);
    let (header, _) = guest.expect(op::RST);
    assert_eq!((header.src_port.get(), header.dst_port.get()), (80, 1024));
    // One that has ended is as good as none, and one that is busy must not
    // keep the device waiting.
    drop(UnixListener::bind(port_path(&guest.path(), 81)).unwrap());
    guest.send(op::REQUEST, (1024, 81), 0, &[]);
    guest.expect(op::RST);
    let busy = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let address = SocketAddrUnix::new(port_path(&guest.path(), 82)).unwrap();
    rustix::net::bind(&busy, &address).unwrap();
    rustix::net::listen(&busy, 0).unwrap();
    guest.send(op::REQUEST, (1024, 82), 0, &[]);
    guest.expect(op::RESPONSE);
    guest.send(op::REQUEST, (1025, 82), 0, &[]);
    guest.expect(op::RST);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    guest.give(64);
    let (mut host, port) = guest.connected(7);
    // The host has said all, and listens.
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::RW).1, b"question");
    let (header, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(header.flags.get(), NO_SEND);
    guest.send(op::RW, (7, port), 0, b"answer");
    guest.send(op::SHUTDOWN, (7, port), NO_SEND, &[]);
    let mut got = Vec::new();
    host.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
    assert_eq!(guest.expect(op::SHUTDOWN).0.flags.get(), NOTHING);
    guest.send(op::RST, (7, port), 0, &[]);
    assert_eq!(guest.metrics.connections.get(), 0);
    // And the other way around.
    let (mut host, port) = guest.connected(8);
    guest.send(op::SHUTDOWN, (8, port), NO_SEND, &[]);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    host.write_all(b"still here").unwrap();
    assert_eq!(guest.expect(op::RW).1, b"still here");
    // Hints add up (5.10.6.5).
    guest.send(op::SHUTDOWN, (8, port), NO_RECEIVE, &[]);
    guest.expect(op::RST);
    assert!(host.write_all(b"nobody").is_err());
}

#[test]
fn what_the_guest_does_not_receive_the_host_cannot_write() {
    let mut guest = Guest::new();
    guest.give(64);
    let (mut host, port) = guest.connected(7);
    guest.send(op::SHUTDOWN, (7, port), NO_RECEIVE, &[]);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(op::RW, (7, port), 0, b"more");
    let mut got = [0; 4];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"more");
}

#[test]
fn a_host_that_reads_no_more_is_reported_and_costs_nothing() {
    let mut guest = Guest::new();
    guest.give(64);
    let (host, port) = guest.connected(7);
    host.shutdown(Shutdown::Read).unwrap();
    guest.send(op::RW, (7, port), 0, b"in vain");
    let (header, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(header.flags.get(), NO_RECEIVE);
    // More than would fit, if it were kept.
    for _ in 0..2 * BUFFER / 0x8000 {
        guest.send(op::RW, (7, port), 0, &[1; 0x8000]);
        while guest.next().is_some() {}
        guest.give(1);
    }
    assert_eq!(guest.metrics.connections.get(), 1);
}

#[test]
fn the_device_works_on_its_own_thread_and_again_after_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    let mut vsock = Vsock::new("vsock0", 77, &path, &no_sandbox()).unwrap();
    let mut config = [0; 12];
    vsock.read_config(0, &mut config);
    assert_eq!(config, [77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for round in 0..2 {
        let mut driver = Driver::new(0x10_0000, QUEUES, features::COMMON);
        let free = driver.free();
        // Connecting works before there is a driver.
        let mut host = UnixStream::connect(&path).unwrap();
        host.write_all(b"CONNECT 5\n").unwrap();
        vsock.activate(driver.activation()).unwrap();
        driver.queues[2].ring();
        driver.queues[0].add(&[writable(free, 4096)]);
        driver.queues[0].ring();
        assert_eq!(driver.queues[0].wait_used(), (0, HEADER));
        let bytes = driver.queues[0].read(free, HEADER as usize);
        let mut answer = Header::read_from_bytes(&bytes).unwrap().reset();
        assert_eq!(answer.src_cid.get(), 77);
        answer.op = op::RESPONSE.into();
        driver.queues[1].write(free, answer.as_bytes());
        driver.queues[1].add(&[readable(free, HEADER)]);
        driver.queues[1].ring();
        driver.queues[1].wait_used();
        let mut got = [0; 3];
        host.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"OK ", "round {round}");
        if round == 1 {
            driver.queues[1].publish(700);
            driver.queues[1].ring();
            eventually("it gives up", || driver.broken());
        }
        vsock.reset();
        assert_eq!(vsock.metrics().connections.get(), 0);
        // All connections have ended.
        let mut rest = Vec::new();
        host.read_to_end(&mut rest).unwrap();
        assert!(driver.interrupts.count.load(Ordering::SeqCst) > 0);
    }
    drop(vsock);
    assert!(!path.exists());
}

#[test]
fn addresses_that_are_not_a_guests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for cid in [0, 1, 2, u32::MAX] {
        let error = Vsock::new("vsock0", cid, &dir.path().join("v"), &no_sandbox()).unwrap_err();
        assert!(error.to_string().contains("no address of a guest"));
    }
}
