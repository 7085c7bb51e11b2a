//! Who may send how much, [section 5.10.6.3].
//!
//! Either side says how much room it has and how much has left that room, and
//! the other sends no more than fits. Counters are modulo 2^32, and what the
//! guest says of its own need not be true.
//!
//! [section 5.10.6.3]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

/// Room for what the guest sends, in bytes, of each connection.
pub(super) const BUFFER: u32 = 128 << 10;

/// The credit of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// What the guest has been sent.
    sent: u32,
    /// Its room, as it says.
    peer_buffer: u32,
    /// What has left its room, as it says.
    peer_forwarded: u32,
    /// What it has sent.
    received: u32,
    /// What of that has gone on to the host.
    forwarded: u32,
    /// `forwarded` as the guest heard it last.
    told: u32,
}

impl Credit {
    /// Notes what a packet of the guest's says.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buffer = buf_alloc;
        self.peer_forwarded = fwd_cnt;
    }

    /// What may be sent to the guest.
    pub(super) fn may_send(&self) -> u32 {
        let there = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.saturating_sub(there)
    }

    /// Bytes were sent.
    pub(super) fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// Bytes came from the guest; `false` if they are more than it was granted.
    pub(super) fn receive(&mut self, len: u32) -> bool {
        let fits = len <= BUFFER.saturating_sub(self.held());
        if fits {
            self.received = self.received.wrapping_add(len);
        }
        fits
    }

    /// Bytes that came went on to the host, or nobody wants them.
    pub(super) fn forward(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len.min(self.held()));
    }

    /// Bytes that came and are here still.
    pub(super) fn held(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Whether the guest should hear of the room that was made, because it
    /// might wait for it.
    pub(super) fn update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUFFER / 4
    }

    /// What to say to the guest: room, and what has left it.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (BUFFER, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A guest that keeps its own, exact account in 64 bits.
    #[derive(Debug, Default)]
    struct Guest {
        sent: u64,
        host_forwarded: u64,
        received: u64,
        read: u64,
    }

    const ROOM: u32 = 100_000;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        ToHost(u32),
        HostTakes(u32),
        ToGuest(u32),
        GuestReads(u32),
        GuestTells,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u32..=2 * BUFFER).prop_map(Step::ToHost),
            (1u32..=2 * BUFFER).prop_map(Step::HostTakes),
            (1u32..=2 * ROOM).prop_map(Step::ToGuest),
            (1u32..=2 * ROOM).prop_map(Step::GuestReads),
            Just(Step::GuestTells),
        ]
    }

    proptest! {
        /// Counters start close to where they wrap.
        #[test]
        fn neither_room_overflows_and_nobody_waits_for_ever(
            start in 0u32..=u32::MAX,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut credit = Credit {
                sent: start,
                peer_buffer: ROOM,
                peer_forwarded: start,
                received: start,
                forwarded: start,
                told: start,
            };
            let mut guest = Guest::default();
            let mut forwarded = 0u64;
            for step in steps {
                match step {
                    Step::ToHost(len) => {
                        // As much as the guest believes there is room for.
                        let room = u64::from(BUFFER) - (guest.sent - guest.host_forwarded);
                        let len = u64::from(len).min(room) as u32;
                        prop_assert!(credit.receive(len));
                        guest.sent += u64::from(len);
                        let left = BUFFER - credit.held();
                        prop_assert!(!credit.clone().receive(left + 1));
                    }
                    Step::HostTakes(len) => {
                        let len = len.min(credit.held());
                        credit.forward(len);
                        forwarded += u64::from(len);
                    }
                    Step::ToGuest(len) => {
                        let len = len.min(credit.may_send());
                        credit.send(len);
                        guest.received += u64::from(len);
                        prop_assert!(guest.received - guest.read <= u64::from(ROOM));
                    }
                    Step::GuestReads(len) => {
                        let there = guest.received - guest.read;
                        guest.read += u64::from(len).min(there);
                    }
                    Step::GuestTells => {
                        credit.update(ROOM, start.wrapping_add(guest.read as u32));
                        let room = u64::from(ROOM) - (guest.received - guest.read);
                        prop_assert_eq!(u64::from(credit.may_send()), room);
                    }
                }
                prop_assert_eq!(u64::from(credit.held()), guest.sent - forwarded);
                if credit.update_due() {
                    let (room, count) = credit.tell();
                    prop_assert_eq!(room, BUFFER);
                    guest.host_forwarded = forwarded;
                    prop_assert_eq!(count, start.wrapping_add(forwarded as u32));
                }
                // Once all has gone to the host, the guest knows of most room.
                if credit.held() == 0 {
                    prop_assert!(guest.sent - guest.host_forwarded < u64::from(BUFFER / 4));
                }
            }
        }

        #[test]
        fn whatever_the_guest_says_no_more_is_sent_than_its_room(
            sent in 0u32.., buf_alloc in 0u32.., fwd_cnt in 0u32..,
        ) {
            let mut credit = Credit { sent, ..Credit::default() };
            credit.update(buf_alloc, fwd_cnt);
            prop_assert!(credit.may_send() <= buf_alloc);
        }

        #[test]
        fn what_was_not_received_cannot_be_forwarded(len in 0u32.., more in 0u32..) {
            let mut credit = Credit::default();
            let taken = credit.receive(len);
            prop_assert_eq!(taken, len <= BUFFER);
            credit.forward(more);
            prop_assert!(credit.held() <= BUFFER);
        }
    }
}
