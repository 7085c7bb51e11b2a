//! Credit: nobody is sent more than it has room for.

use super::*;

#[test]
fn a_slow_host_reader_gets_everything_and_slows_down_the_guest() {
    let mut guest = Guest::new();
    guest.give(100);
    let (mut host, port) = guest.connected(7);
    let data = pattern(3_000_000);
    let mut got = Vec::new();
    let (mut sent, mut granted, mut waits) = (0usize, BUFFER as usize, 0);
    while sent < data.len() {
        let len = (granted - sent).min(65536).min(data.len() - sent);
        if len > 0 {
            guest.send(op::RW, (7, port), 0, &data[sent..sent + len]);
            sent += len;
        } else {
            waits += 1;
            drain(&mut host, &mut got);
        }
        while let Some((header, _)) = guest.next() {
            assert_eq!(header.op.get(), op::CREDIT_UPDATE);
            granted = header.fwd_cnt.get() as usize + header.buf_alloc.get() as usize;
            guest.give(1);
        }
    }
    // The guest closes while the host is still reading.
    guest.send(op::SHUTDOWN, (7, port), NOTHING, &[]);
    guest.expect(op::RST);
    while !drain(&mut host, &mut got) {
        guest.device.settle();
    }
    assert!(waits > 0, "it had to wait");
    assert!(got == data);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
}

#[test]
fn the_guest_is_never_sent_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    guest.give(100);
    let (mut host, port) = guest.connected(7);
    let data = pattern(300_000);
    host.set_nonblocking(true).unwrap();
    let (mut written, mut got, mut asked) = (0, Vec::new(), 0);
    while got.len() < data.len() {
        if let Ok(n) = host.write(&data[written..]) {
            written += n;
        }
        while let Some((header, more)) = guest.next() {
            match header.op.get() {
                op::RW => got.extend(more),
                op::CREDIT_REQUEST => asked += 1,
                other => unreachable!("operation {other}"),
            }
            guest.give(1);
        }
        let there = got.len() as u32 - guest.forwarded;
        assert!(there <= ROOM);
        guest.forwarded = got.len() as u32;
        guest.send(op::CREDIT_UPDATE, (7, port), 0, &[]);
    }
    assert!(got == data);
    assert!(asked >= 3, "credit ran out {asked} times");
}

#[test]
fn a_guest_that_asks_for_credit_is_told() {
    let mut guest = Guest::new();
    guest.give(8);
    let (_host, port) = guest.connected(7);
    guest.send(op::RW, (7, port), 0, b"abc");
    guest.silent();
    guest.send(op::CREDIT_REQUEST, (7, port), 0, &[]);
    let (header, _) = guest.expect(op::CREDIT_UPDATE);
    assert_eq!((header.fwd_cnt.get(), header.buf_alloc.get()), (3, BUFFER));
    guest.silent();
}

#[test]
fn two_connections_share_the_queue() {
    let mut guest = Guest::new();
    guest.give(2);
    let (mut a, _) = guest.connected(1);
    let (mut b, _) = guest.connected(2);
    a.write_all(&pattern(20_000)).unwrap();
    b.write_all(&pattern(20_000)).unwrap();
    guest.silent();
    let mut turns = Vec::new();
    guest.give(10);
    while let Some((header, data)) = guest.next() {
        if !data.is_empty() {
            turns.push(header.dst_port.get());
        }
    }
    assert!(
        turns.windows(3).any(|w| w[0] != w[1] && w[1] != w[2]),
        "{turns:?}"
    );
}
