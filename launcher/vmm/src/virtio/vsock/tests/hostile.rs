//! Guests that break rules.

use super::*;

#[test]
fn more_than_was_granted_ends_the_connection() {
    let mut guest = Guest::new();
    guest.give(64);
    let (_host, port) = guest.connected(7);
    let mut sent = 0;
    // The socket takes some, then the buffer what was granted.
    let over = loop {
        guest.send(op::RW, (7, port), 0, &[7; 0x1_0000]);
        sent += 0x1_0000;
        assert!(sent < 0x100_0000, "it takes everything");
        let next = guest.next();
        if next.as_ref().is_some_and(|n| n.0.op.get() == op::RST) {
            break sent;
        }
    };
    assert!(over > BUFFER);
    guest.silent();
    // What was accepted is delivered nevertheless.
    assert_eq!(guest.metrics.connections.get(), 1);
}

#[test]
fn packets_to_nobody_are_reset_once() {
    let mut guest = Guest::new();
    guest.give(32);
    guest.send(op::RW, (1, 2), 0, b"hello");
    let (header, _) = guest.expect(op::RST);
    assert_eq!((header.src_port.get(), header.dst_port.get()), (2, 1));
    guest.send(op::RST, (1, 2), 0, &[]);
    guest.silent();
    // 5.10.6.4.2: unknown types.
    let mut header = guest.header(op::REQUEST, (1, 2));
    header.kind = 2.into();
    guest.put(&header, &[]);
    assert_eq!(guest.expect(op::RST).0.kind.get(), 2);
    // Another guest, which only the host could reach.
    let mut header = guest.header(op::REQUEST, (1, 2));
    header.dst_cid = 4.into();
    guest.put(&header, &[]);
    guest.device.settle();
    let (_, len) = guest.driver.queues[0].used().unwrap();
    assert_eq!(len, HEADER);
    // Who is not who it says is not answered.
    let mut header = guest.header(op::REQUEST, (1, 2));
    header.src_cid = 4.into();
    guest.put(&header, &[]);
    guest.silent();
    assert_eq!(guest.metrics.stats.dropped.get(), 1);
}

#[test]
fn operations_at_the_wrong_time_end_the_connection() {
    for op in [op::REQUEST, op::RESPONSE, 0, 8, 0xffff] {
        let mut guest = Guest::new();
        guest.give(8);
        let (mut host, port) = guest.connected(7);
        guest.send(op, (7, port), 0, &[]);
        guest.expect(op::RST);
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "{op}");
    }
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_UPDATE] {
        let mut guest = Guest::new();
        guest.give(8);
        let mut host = guest.call(7);
        let port = guest.expect(op::REQUEST).0.src_port.get();
        guest.send(op, (7, port), NOTHING, &[]);
        guest.expect(op::RST);
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "{op}");
    }
}

#[test]
fn a_guest_that_takes_no_answers_gives_no_more_packets() {
    let mut guest = Guest::new();
    let free = guest.driver.free() + GIVEN * 0x2000;
    let header = guest.header(op::RW, (1, 2));
    guest.driver.queues[1].write(free, header.as_bytes());
    let mut served = 0;
    for _ in 0..10 {
        for _ in 0..100 {
            guest.driver.queues[1].add(&[readable(free, HEADER)]);
            if guest.driver.queues[1].available_index as usize - served >= 200 {
                break;
            }
        }
        guest.device.event(TRANSMIT);
        while guest.driver.queues[1].used().is_some() {
            served += 1;
        }
    }
    assert!((200..400).contains(&served), "{served}");
    let waiting = usize::from(guest.driver.queues[1].available_index) - served;
    assert!(waiting > 0);
    // With room for answers it goes on by itself.
    let mut answers = 0;
    while answers < served + waiting {
        guest.give(50);
        while guest.next().is_some() {
            answers += 1;
        }
    }
    guest.silent();
}

#[test]
fn connections_have_a_limit_and_others_wait() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(port_path(&guest.path(), 1)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut hosts = Vec::new();
    for port in 0..table::MOST as u32 {
        guest.give(1);
        guest.send(op::REQUEST, (port, 1), 0, &[]);
        guest.expect(op::RESPONSE);
        hosts.push(listener.accept().unwrap().0);
    }
    guest.give(4);
    guest.send(op::REQUEST, (5000, 1), 0, &[]);
    guest.expect(op::RST);
    let mut late = guest.call(22);
    guest.silent();
    guest.send(op::SHUTDOWN, (0, 1), NOTHING, &[]);
    guest.expect(op::RST);
    let (header, _) = guest.expect(op::REQUEST);
    guest.send(op::RESPONSE, (22, header.src_port.get()), 0, &[]);
    let mut got = [0; 3];
    late.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"OK ");
}

#[test]
fn broken_packets_stop_the_device() {
    let break_with = |f: &dyn Fn(&mut Guest)| {
        let mut guest = Guest::new();
        guest.give(8);
        let (_host, port) = guest.connected(7);
        let header = guest.header(op::RW, (7, port));
        let at = guest.driver.free() + GIVEN * 0x2000;
        guest.driver.queues[1].write(at, header.as_bytes());
        f(&mut guest);
        guest.device.event(TRANSMIT);
        guest.device.event(RECEIVE);
        assert_eq!(guest.metrics.connections.get(), 0);
        guest.device.fault.clone().unwrap()
    };
    let at = Guest::new().driver.free() + GIVEN * 0x2000;
    for (why, pieces) in [
        ("44 are needed", vec![readable(at, 43)]),
        ("writable", vec![readable(at, HEADER), writable(at, 8)]),
        (
            "not in memory",
            vec![readable(at, HEADER), readable(1 << 40, 8)],
        ),
    ] {
        let fault = break_with(&|guest| {
            guest.driver.queues[1].add(&pieces);
        });
        assert!(fault.contains(why), "{fault}");
    }
    // More data than the chain has.
    let fault = break_with(&|guest| {
        let len = guest.driver.queues[1].read(at, 44);
        let mut header = Header::read_from_bytes(&len).unwrap();
        header.len = u32::MAX.into();
        guest.driver.queues[1].write(at, header.as_bytes());
        guest.driver.queues[1].add(&[readable(at, HEADER + 8)]);
    });
    assert!(fault.contains("4294967339 are needed"), "{fault}");
    // Receive buffers without room, once there is something to receive.
    for pieces in [vec![writable(at, HEADER)], vec![readable(at, 100)]] {
        let mut guest = Guest::new();
        guest.driver.queues[0].add(&pieces);
        guest.send(op::RW, (1, 2), 0, &[]);
        assert!(guest.device.fault.unwrap().contains("room for a header"));
    }
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
