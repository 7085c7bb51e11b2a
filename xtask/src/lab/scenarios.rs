//! What must work with real kernels under the real KVM.

use super::pod;

/// What every scenario's shell knows.
///
/// `guest SUITE WORDS [OPTION...]` has `bootwright run` boot the kernel of that
/// release with the small initramfs, on a disk of zeros; WORDS say what it does.
/// `attended` is the same, and does to the guest what that asks for, typing the
/// answer on its console.
pub(super) const HELP: &str = r#"
empty=/tmp/empty.raw; [ -e $empty ] || truncate -s 64M $empty
guest() { suite=$1 words=$2; shift 2
  bootwright run ${target:-$empty} --quiet --network none --cpus 1 --memory 256M \
    --kernel /lab/$suite.vmlinuz --initrd /lab/$suite.initrd \
    --append "console=ttyS0 quiet $words" "$@"; }
attended() { keys=$XDG_RUNTIME_DIR/keys; mkfifo $keys; exec 3<> $keys
  { guest "$@" --name it <&3; echo $? > $keys.status; } | while read -r line; do
    line=${line%$'\r'}; echo "$line"
    case $line in *"do: "*)
      if act ${line#*do: } > $keys.said 2>&1; then echo done >&3; else echo "failed $(cat $keys.said)" >&3; fi ;;
    esac
  done; return $(cat $keys.status); }
act() { log=$XDG_STATE_HOME/bootwright/vms/it/console.log
  case $1 in
    cpus) bootwright resize it --cpus $2 ;;
    button) bootwright stop it --time 60s & ;;
    memory) bootwright resize it --memory $2M ;;
    pause) bootwright pause it && sleep 1 && wc -c < $log > $keys.before && sleep 1 &&
      wc -c < $log | cmp - $keys.before && bootwright resume it ;;
    *) echo "nobody knows how to $1"; false ;;
  esac; }
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
    /// Whether the image and disks must be there, in /disk.
    pub(super) disk: bool,
    /// Whether pods must be there, in /disk/pods.
    pub(super) pod: bool,
}

/// A guest that does one thing; it takes some ten seconds on a quiet host.
const SMALL: Scenario = Scenario {
    name: "",
    command: "",
    status: 0,
    lines: &[],
    limit: 300,
    disk: false,
    pod: false,
};

/// The image's whole system, which takes one to two minutes.
const DEBIAN: Scenario = Scenario {
    limit: 900,
    disk: true,
    ..SMALL
};

/// A pod's launcher, on a node without a cluster.
pub(super) const POD: Scenario = Scenario {
    disk: true,
    pod: true,
    ..SMALL
};

/// All of them, in the order in which they are begun: long ones first, so that
/// none is left at the end.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "the Debian image boots straight from its plan, and lets one in by ssh",
        command: "bootwright run oci:/disk/image:debian --store /disk/store --name it \
                  --hostname lab --memory 1G --cpus 2 --detach --wait --timeout 840s \
                  --karg quiet --karg systemd.default_timeout_start_sec=300 \
                  --karg systemd.default_device_timeout_sec=300 || \
                  { tail -n 40 $XDG_STATE_HOME/bootwright/vms/it/console.log; exit 1; }; \
                  bootwright ssh it -- 'hostname; findmnt -no FSTYPE /; systemctl is-system-running'; \
                  bootwright stop it --time 200s --json",
        lines: &["booted in", "lab", "ext4", "running", "power_off"],
        ..DEBIAN
    },
    pod::BOOTABLE_CONTAINER,
    Scenario {
        name: "the built qcow2 boots the kernel that is on it",
        command: "bootwright run /disk/debian.qcow2 --quiet --network none --memory 1G --cpus 1 \
                  --karg quiet --karg \"systemd.run=\\\"/bin/sh -c 'findmnt -no SOURCE,FSTYPE / > /dev/console'\\\"\" \
                  --karg systemd.run_success_action=poweroff < /dev/null",
        lines: &["/dev/vda", "ext4"],
        ..DEBIAN
    },
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
        name: "a disk of somebody else's boots by its GRUB's configuration",
        command: "bootwright run /disk/foreign.raw --quiet --network none --memory 256M --cpus 1 \
                  < /dev/null",
        lines: &[
            "init: reached on 6.1",
            "init: root is /dev/vda1",
            "init: the disk's own",
        ],
        disk: true,
        ..SMALL
    },
    pod::CONTAINER_DISK,
    Scenario {
        name: "6.1 boots and turns off",
        command: "guest bookworm lab=off < /dev/null",
        lines: &["init: reached on 6.1", "1 cpus", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "6.12 boots and turns off",
        command: "guest trixie lab=off < /dev/null",
        lines: &["init: reached on 6.12", "1 cpus", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "four processors in one package",
        command: "guest bookworm 'lab=smp lab=off' --cpus 4 < /dev/null",
        lines: &["4 cpus", "init: on 0", "init: on 3", "init: siblings 0-3"],
        ..SMALL
    },
    Scenario {
        name: "memory past the hole",
        command: "guest bookworm lab=off --memory 4G < /dev/null",
        lines: &["init: reached", "cpus, 40", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "a guest that reboots goes on in the same machine",
        command: "guest trixie lab=reset < /dev/null",
        lines: &[
            "init: reached on 6.12",
            "init: resetting",
            "init: reached on 6.12",
            "init: here again",
        ],
        ..SMALL
    },
    Scenario {
        name: "with --no-reboot a reset is the end, and told apart",
        command: "guest bookworm lab=reset --no-reboot < /dev/null",
        status: 32,
        lines: &["init: resetting"],
        ..SMALL
    },
    Scenario {
        name: "a panic is told apart from a crash",
        command: "guest trixie lab=panic < /dev/null",
        status: 34,
        lines: &["init: panicking", "panicked"],
        ..SMALL
    },
    Scenario {
        name: "processors come and go",
        command: "attended trixie 'lab=cpus lab=off' --cpus 1 --max-cpus 4",
        lines: &[
            "1 cpus",
            "cpus 3: done",
            "init: now 3",
            "cpus 1: done",
            "init: now 1",
            "cpus 2: done",
            "init: now 2",
            "cpus 9: failed",
            "9 vCPUs: this virtual machine can have 1 to 4",
            "init: turning off",
        ],
        ..SMALL
    },
    Scenario {
        name: "a guest is held and goes on",
        command: "attended bookworm 'lab=pause lab=off' --cpus 2",
        lines: &["tick", "pause: done", "init: went on", "init: turning off"],
        ..SMALL
    },
    Scenario {
        name: "the power button is heard",
        command: "attended bookworm lab=button",
        lines: &["init: pressed"],
        ..SMALL
    },
    Scenario {
        name: "an overlay keeps what was written, and the disk below it stays",
        command: "truncate -s 64M /tmp/base.raw; target=/tmp/base.raw; for run in 1 2; do \
                  guest trixie 'lab=disk lab=off' --name twice < /dev/null || exit 1; done; \
                  head -c 67108864 /dev/zero | cmp - /tmp/base.raw && echo 'base: untouched'",
        lines: &[
            "init: serial root",
            "init: left",
            "init: found something",
            "base: untouched",
        ],
        ..SMALL
    },
    Scenario {
        name: "a further disk is written, raw or qcow2",
        command: "truncate -s 64M /tmp/further.raw; for disk in /tmp/further.raw /disk/empty.qcow2; do \
                  for run in 1 2; do guest bookworm 'lab=disk lab=off' --cpus 2 --disk $disk \
                  < /dev/null || exit 1; done; done",
        lines: &[
            "init: serial disk1",
            "init: left",
            "init: found something",
            "init: left",
            "init: found something",
        ],
        disk: true,
        limit: 600,
        ..SMALL
    },
    Scenario {
        name: "memory comes and goes, and some of what was there at boot",
        command: "attended bookworm 'lab=memory lab=off' --max-memory 768M",
        lines: &[
            "memory 512: done",
            "init: plugged, 4",
            "memory 256: done",
            "init: unplugged, 2",
            "memory 192: done",
            "init: taken, 1",
            "memory 256: done",
            "init: given back, 2",
            "memory 4096: failed",
            "this machine can have 768",
            "init: turning off",
        ],
        ..SMALL
    },
    Scenario {
        name: "memory of huge pages, if the host has enough",
        command: "echo 160 > /proc/sys/vm/nr_hugepages; guest bookworm lab=off --huge-pages < /dev/null; \
                  status=$?; echo 0 > /proc/sys/vm/nr_hugepages; \
                  guest bookworm lab=off --huge-pages < /dev/null; echo \"without any: $?\"; exit $status",
        lines: &[
            "init: reached",
            "init: turning off",
            "huge pages",
            "without any: 35",
        ],
        ..SMALL
    },
];
