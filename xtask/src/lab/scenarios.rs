//! What must work with real kernels under the real KVM.

/// What a small guest does for each word `lab=NAME` of its command line, in
/// that order. `ask` has the machine do something to the guest.
pub(super) const GUEST_SCRIPTS: &[(&str, &str)] = &[
    ("off", "echo 'init: turning off'; poweroff -f"),
    ("reset", "echo 'init: resetting'; reboot -f"),
    (
        "panic",
        "echo 'init: panicking'; echo c > /proc/sysrq-trigger",
    ),
    (
        "look",
        "dmesg | grep -iE 'acpi|pci|kvm-clock|tsc|apic|smp' | head -80; cat /proc/interrupts; \
         ls /sys/bus/acpi/devices /sys/bus/pci/devices; grep -m3 -E 'model name|cpu cores' /proc/cpuinfo",
    ),
    (
        "smp",
        "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset $((1 << cpu)) echo \"init: on $cpu\"; done; \
         echo \"init: siblings $(cat /sys/devices/system/cpu/cpu0/topology/core_siblings_list)\"",
    ),
    ("cpus", CPUS),
    (
        "pause",
        "ask pause 500; echo \"init: uptime $(cut -d. -f1 /proc/uptime)\"",
    ),
    (
        "button",
        "for event in /dev/input/event*; do \
         (head -c 24 $event > /dev/null; echo 'init: pressed'; poweroff -f) & done; \
         sleep 1; ask button; sleep 60",
    ),
    ("disk", DISK),
    ("memory", MEMORY),
];

/// Memory comes and goes, then some of what was there at boot is lent.
const MEMORY: &str = r#"
total() { awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
reach() { for i in $(seq 200); do [ $(total) $1 $2 ] && break; sleep 0.1; done; echo "init: $3, $(total) MiB"; }
boot=$(total)
ask memory 256; reach -ge $((boot + 250)) "plugged"
ask memory 0; reach -le $((boot + 10)) "unplugged"
ask balloon 64; reach -le $((boot - 60)) "lent"
ask balloon 0; reach -ge $((boot - 10)) "given back"
ask memory 4096
"#;

/// Two processors come, are used, and go again.
const CPUS: &str = r#"
wait_for() { for i in $(seq 100); do [ $(nproc) = $1 ] && break; online; sleep 0.1; done; echo "init: now $(nproc)"; }
online() { for cpu in /sys/devices/system/cpu/cpu[1-9]*; do
    [ "$(cat $cpu/online)" = 0 ] && [ $wanted -gt ${cpu##*cpu} ] && echo 1 > $cpu/online; done; }
for wanted in 3 1 2; do ask cpus $wanted; wait_for $wanted; done
ask cpus 9
"#;

/// Finds what an earlier run left on the first disk, or leaves something.
const DISK: &str = r#"
echo "init: serial $(cat /sys/block/vda/serial)"
if mount -t ext4 /dev/vda /tmp 2>/dev/null; then echo "init: found $(cat /tmp/file)"
else mke2fs -F /dev/vda > /dev/null && mount -t ext4 /dev/vda /tmp && echo something > /tmp/file && echo 'init: left'; fi
umount /tmp
"#;

/// A command in L1 and what must come of it.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) command: &'static str,
    /// Its exit status.
    pub(super) status: u8,
    /// What must be in its output, in this order.
    pub(super) lines: &'static [&'static str],
    /// Seconds that it may take on an emulated machine on a busy host.
    pub(super) limit: u64,
    /// Whether the demo's disk must be there as /dev/vda.
    pub(super) disk: bool,
}

/// A guest that does one thing; it takes some ten seconds on a quiet host.
const SMALL: Scenario = Scenario {
    name: "",
    command: "",
    status: 0,
    lines: &[],
    limit: 150,
    disk: false,
};

/// The image's whole system, which takes one to two minutes.
const DEBIAN: Scenario = Scenario {
    limit: 480,
    disk: true,
    ..SMALL
};

/// Boots what the loader entry on the demo's disk says, with an overlay that
/// lasts as long as L1. The command line follows, then more options.
macro_rules! debian {
    () => {
        "mkdir -p /esp; [ -d /esp/loader ] || mount -t vfat -o ro /dev/vda1 /esp || exit 1; \
         entry=$(ls /esp/loader/entries/*.conf); \
         field() { sed -n \"s/^$1 *//p\" $entry; }; options=$(field options); \
         debian() { line=$1; shift; boot /esp$(field linux) /esp$(field initrd) \"$line\" \
         --cpus 2 --memory 1024 --disk /dev/vda --overlay /tmp/debian.overlay \"$@\"; }; debian "
    };
}

/// All of them, in the order in which they run.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "guests of a few instructions",
        command: "BOOTWRIGHT_TEST_KVM=1 bare_metal --test-threads 2",
        lines: &["test result: ok"],
        ..SMALL
    },
    Scenario {
        name: "the sandbox, where there is Landlock",
        command: "mount -t securityfs none /sys/kernel/security; cat /sys/kernel/security/lsm; \
                  bootwright_vmm sandbox::",
        lines: &["landlock", "test result: ok"],
        ..SMALL
    },
    Scenario {
        name: "6.1 boots and turns off",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=off'",
        lines: &["init: reached on 6.1", "1 cpus", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "6.12 boots and turns off",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=off'",
        lines: &["init: reached on 6.12", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "four processors in one package",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=smp lab=off' --cpus 4 --memory 512",
        lines: &["4 cpus", "init: on 0", "init: on 3", "init: siblings 0-3"],
        ..SMALL
    },
    Scenario {
        name: "memory past the hole",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=off' --memory 4096",
        lines: &["init: reached", "cpus, 40", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "reset in place",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=reset'",
        status: 32,
        lines: &[
            "init: resetting",
            "asked for a reset",
            "init: reached",
            "asked for a reset",
        ],
        ..SMALL
    },
    Scenario {
        name: "a panic is told apart from a crash",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=panic'",
        status: 34,
        lines: &["init: panicking", "kernel panicked"],
        ..SMALL
    },
    Scenario {
        name: "processors come and go",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=cpus lab=off' --cpus 1:4",
        lines: &[
            "1 cpus",
            "cpus 3: done",
            "init: now 3",
            "cpus 1: done",
            "init: now 1",
            "cpus 2: done",
            "init: now 2",
            "cpus 9: failed 9 vCPUs: this virtual machine can have 1 to 4",
            "init: turning off",
        ],
        ..SMALL
    },
    Scenario {
        name: "memory comes and goes",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet \
                  memhp_default_state=online_movable lab=memory lab=off' --memory 256+512",
        lines: &[
            "memory 256: done",
            "init: plugged, 4",
            "memory 0: done",
            "init: unplugged, 2",
            "balloon 64: done",
            "init: lent, 1",
            "balloon 0: done",
            "init: given back, 2",
            "memory 4096: failed 4294967296 bytes of memory cannot be plugged",
            "init: turning off",
        ],
        ..SMALL
    },
    Scenario {
        name: "a guest is held and goes on",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=pause lab=off' --cpus 2",
        lines: &["pause 500: done", "init: uptime", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "the power button is heard",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=button'",
        lines: &["init: pressed"],
        ..SMALL
    },
    Scenario {
        name: "an overlay keeps what was written, and the disk below it stays",
        command: "truncate -s 64M /tmp/base; for run in 1 2; do \
                  boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=disk lab=off' \
                  --disk /tmp/base --overlay /tmp/overlay || exit 1; done; \
                  head -c 67108864 /dev/zero | cmp - /tmp/base && echo 'base: untouched'",
        lines: &[
            "init: serial block0",
            "init: left",
            "init: found something",
            "base: untouched",
        ],
        ..SMALL
    },
    Scenario {
        name: "a disk without an overlay is written",
        command: "truncate -s 64M /tmp/disk; for run in 1 2; do \
                  boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=disk lab=off' \
                  --disk /tmp/disk --cpus 2 || exit 1; done",
        lines: &["init: left", "init: found something"],
        ..SMALL
    },
    Scenario {
        name: "memory of huge pages",
        command: "echo 160 > /proc/sys/vm/nr_hugepages; \
                  boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=off' --huge-pages; \
                  status=$?; echo 0 > /proc/sys/vm/nr_hugepages; \
                  boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=off' --huge-pages; \
                  exit $status",
        lines: &["init: reached", "init: turning off", "in huge pages"],
        ..SMALL
    },
    Scenario {
        name: "the Debian image boots straight from its plan, and is turned off",
        command: concat!(
            debian!(),
            "\"$options systemd.default_timeout_start_sec=300\" ",
            "--when 'login: ' button"
        ),
        lines: &["Reached target", "login: ", "turned itself off"],
        ..DEBIAN
    },
    Scenario {
        name: "the Debian image finds what it wrote the last time",
        command: concat!(
            debian!(),
            "\"$options systemd.run=\\\"/usr/bin/ls -l /var/lib/systemd/random-seed\\\"\"; ",
            "status=$?; umount /esp; exit $status"
        ),
        lines: &["-rw-------", "random-seed", "turned itself off"],
        ..DEBIAN
    },
];
