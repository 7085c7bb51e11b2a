//! Checksums and segments that guests leave to others, between two taps with
//! the host's kernel as the router.

use super::*;
use crate::virtio::net::tap::Tap;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_TCPV4`, 5.1.6.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

const SEGMENT: usize = 1448;
/// Ethernet, IPv4 and TCP.
const HEADERS: usize = 14 + 20 + 20;
const FROM: [u8; 4] = [192, 0, 2, 2];
const TO: [u8; 4] = [198, 51, 100, 2];

/// Two taps in a network of this thread's own, which routes between them.
fn taps() -> Option<[OwnedFd; 2]> {
    let first = tap(1)?.remove(0);
    let second = tap::open("tap1", 1).unwrap().remove(0);
    for line in [
        "link set tap0 address 02:00:00:00:00:01",
        "address add 198.51.100.1/24 dev tap1",
        "link set tap1 up",
        "neigh replace 198.51.100.2 lladdr 52:54:00:00:00:02 dev tap1 nud permanent",
    ] {
        let status = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip {line}");
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    Some([first, second])
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().unwrap_or(0) as u32)
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_header(tcp_len: usize) -> Vec<u8> {
    let mut bytes = [FROM, TO].concat();
    bytes.extend([0, 6]);
    bytes.extend((tcp_len as u16).to_be_bytes());
    bytes
}

/// A segment of any length, its checksum begun only, and its packet header.
fn segment(data: &[u8]) -> Vec<u8> {
    let mut packet = vec![NEEDS_CSUM, GSO_TCPV4];
    for field in [HEADERS, SEGMENT, 34, 16, 0] {
        packet.extend((field as u16).to_le_bytes());
    }
    packet.extend([2, 0, 0, 0, 0, 1]);
    packet.extend(MAC);
    packet.extend([8, 0]);
    let mut ip = vec![0x45, 0];
    ip.extend(((40 + data.len()) as u16).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
    ip.extend([FROM, TO].concat());
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(ip);
    let mut tcp = vec![0x10, 0, 0x20, 0];
    tcp.extend(1000u32.to_be_bytes());
    tcp.extend(1u32.to_be_bytes());
    tcp.extend([0x50, 0x18, 0x10, 0]);
    let begun = sum(&pseudo_header(20 + data.len()));
    tcp.extend(begun.to_be_bytes());
    tcp.extend([0, 0]);
    packet.extend(tcp);
    packet.extend(data);
    packet
}

/// A packet's header and its frame.
type Received = (Vec<u8>, Vec<u8>);

/// What arrives at a guest with these features of a segment of 20 KB, and the
/// data of that.
fn forwarded(features: u64) -> Option<(Vec<Received>, Vec<u8>)> {
    let [from, to] = taps()?;
    let data = pattern(20_000, 9);
    let sender = features::COMMON | feature::CSUM | feature::HOST_TSO4;
    let mut sender = driver(sender);
    let handler = NetHandler::alone(Tap::new(from).unwrap(), Arc::default());
    let mut sending = Inline::start(handler, sender.activation());
    let mut receiver = driver(features);
    let handler = NetHandler::alone(Tap::new(to).unwrap(), Arc::default());
    let mut receiving = Inline::start(handler, receiver.activation());
    let free = receiver.free();
    for i in 0..128 {
        receiver.queues[0].add(&[writable(free + i * 2048, 2048)]);
    }
    receiving.event(0u16);

    let packet = segment(&data);
    let queue = &mut sender.queues[1];
    queue.write(free, &packet);
    queue.add(&[readable(free, packet.len() as u32)]);
    sending.event(1u16);
    assert!(sender.queues[1].used().is_some());

    let mut frames = Vec::new();
    let mut len = 0;
    eventually("all of it", || {
        receiving.settle();
        while let Some((header, frame)) = take(&mut receiver.queues[0], free, 2048) {
            // The host says things of its own as well.
            if frame[12..14] == [8, 0] && frame[23] == 6 {
                len += frame.len() - HEADERS;
                frames.push((header, frame));
            }
        }
        len >= data.len()
    });
    Some((frames, data))
}

#[test]
fn a_guest_that_takes_segments_gets_one_as_it_was_sent() {
    let features = MERGE | feature::GUEST_TSO4;
    let Some((frames, data)) = forwarded(features) else {
        return;
    };
    let [(header, frame)] = &frames[..] else {
        unreachable!("{} frames", frames.len());
    };
    assert_eq!(header[..2], [NEEDS_CSUM, GSO_TCPV4]);
    assert_eq!(header[4..6], (SEGMENT as u16).to_le_bytes());
    assert!(u16::from_le_bytes([header[10], header[11]]) >= 10, "merged");
    assert!(frame[HEADERS..] == data);
}

#[test]
fn a_guest_that_takes_none_gets_frames_with_checksums() {
    let Some((frames, data)) = forwarded(features::COMMON | feature::MRG_RXBUF) else {
        return;
    };
    assert_eq!(frames.len(), data.len().div_ceil(SEGMENT));
    let mut got = Vec::new();
    for (header, frame) in frames {
        assert_eq!(header[..2], [0, 0]);
        assert!(frame.len() <= 1514);
        let tcp = &frame[34..];
        let whole = [pseudo_header(tcp.len()), tcp.to_vec()].concat();
        assert_eq!(sum(&whole), 0xffff);
        got.extend_from_slice(&frame[HEADERS..]);
    }
    assert!(got == data);
}

#[test]
fn what_is_offered_is_what_the_back_end_can() {
    let own = feature::MAC | feature::STATUS | feature::MRG_RXBUF | feature::MTU;
    let offered = |peer| {
        let net = Net::new("net0", config(), peer, &no_sandbox()).unwrap();
        let extra = net.features() & !(features::COMMON | own);
        (extra, net.queue_sizes().len())
    };
    let (socket, _passt) = UnixStream::pair().unwrap();
    // A stream of frames has no place for anything else.
    assert_eq!(offered(Peer::Passt(socket)), (feature::GUEST_CSUM, 2));
    let Some(fds) = tap(2) else { return };
    let one = feature::CSUM
        | feature::HOST_TSO4
        | feature::HOST_TSO6
        | feature::HOST_ECN
        | feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::GUEST_ECN;
    let many = one | feature::MQ | feature::CTRL_VQ;
    assert_eq!(offered(Peer::Tap(fds)), (many, 5));
    let single = tap::open("tap1", 1).unwrap();
    assert_eq!(offered(Peer::Tap(single)), (one, 2));
}
