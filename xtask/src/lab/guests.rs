//! What the small guests do.

/// What a small guest does for each word `lab=NAME` of its command line, in
/// that order. `ask` has somebody outside do something to the guest, and says
/// what came of it; see [`HELP`](super::scenarios::HELP).
pub(super) const SCRIPTS: &[(&str, &str)] = &[
    ("off", "echo 'init: turning off'; poweroff -f"),
    ("reset", RESET),
    (
        "panic",
        "echo 'init: panicking'; echo c > /proc/sysrq-trigger",
    ),
    (
        "look",
        "dmesg | grep -iE 'acpi|pci|kvm-clock|tsc|apic|smp' | head -80; cat /proc/interrupts; \
         ls /sys/bus/acpi/devices /sys/bus/pci/devices; grep -m3 -E 'model name|cpu cores' /proc/cpuinfo",
    ),
    // With `initcall_debug log_buf_len=1M`: where the kernel's time goes.
    (
        "initcalls",
        "dmesg | sed -n 's/.*initcall \\(.*\\)+0x.* returned .* after \\([0-9]*\\) usecs/\\2 \\1/p' | \
         sort -rn | head -25; dmesg | grep -E 'Run /init|smp: Brought|console .* enabled|Memory:'",
    ),
    (
        "smp",
        "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset $((1 << cpu)) echo \"init: on $cpu\"; done; \
         echo \"init: siblings $(cat /sys/devices/system/cpu/cpu0/topology/core_siblings_list)\"",
    ),
    ("cpus", CPUS),
    (
        "pause",
        "(while :; do echo tick; sleep 0.1; done) & ask pause; kill $!; echo 'init: went on'",
    ),
    (
        "button",
        "for event in /dev/input/event*; do \
         (head -c 24 $event > /dev/null; echo 'init: pressed'; poweroff -f) & done; \
         sleep 1; ask button; sleep 60",
    ),
    ("disk", DISK),
    ("memory", MEMORY),
    ("root", ROOT),
    ("load", LOAD),
];

/// Resets the machine the first time; what says that it was is on the disk.
const RESET: &str = r#"
if [ "$(head -c 5 /dev/vda)" = again ]; then echo 'init: here again'; poweroff -f; fi
echo again | dd of=/dev/vda bs=512 conv=sync,notrunc 2>/dev/null; sync
echo 'init: resetting'; reboot -f
"#;

/// Memory comes and goes, then some of what was there at boot, too.
const MEMORY: &str = r#"
total() { awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
reach() { for i in $(seq 200); do [ $(total) $1 $2 ] && break; sleep 0.1; done; echo "init: $3, $(total) MiB"; }
boot=$(total)
ask memory 512; reach -ge $((boot + 250)) "plugged"
ask memory 256; reach -le $((boot + 10)) "unplugged"
ask memory 192; reach -le $((boot - 60)) "taken"
ask memory 256; reach -ge $((boot - 10)) "given back"
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

/// Finds what an earlier run left on the disk, or leaves something.
const DISK: &str = r#"
disk=/dev/vdb; [ -e $disk ] || disk=/dev/vda
echo "init: serial $(cat /sys/block/${disk#/dev/}/serial)"
if mount -t ext4 $disk /tmp 2>/dev/null; then echo "init: found $(cat /tmp/file)"
else mke2fs -F $disk > /dev/null && mount -t ext4 $disk /tmp && echo something > /tmp/file && echo 'init: left'; fi
umount /tmp
"#;

/// Goes on from the root file system that the command line names.
const ROOT: &str = r#"
for word in $(cat /proc/cmdline); do case $word in root=*) root=${word#root=} ;; esac; done
echo "init: root is $(findfs $root)"
mkdir /new && mount -t ext4 -o ro $(findfs $root) /new && exec switch_root /new /sbin/init
"#;

/// Reads two further disks past the page cache, four readers at a time, and
/// takes 64 MiB from the host's port 5001; says when each begins and ends.
/// Nothing is sent: passt of Debian 12 breaks connections of guests as slow as
/// these that send much, under QEMU as under ours. It is the host that ends the
/// connection for the same reason.
const LOAD: &str = r#"
begin() { echo "load: $*"; "$@" || echo "init: $* failed"; echo 'load: end'; }
read_4k() { readers $1 4k 2500; }
read_1m() { readers $1 1M 32; }
readers() { pids=; for part in 0 1 2 3; do
  dd if=/dev/$1 of=/dev/null bs=$2 count=$3 skip=$((part * $3)) iflag=direct 2>/dev/null & pids="$pids $!"; done
  for pid in $pids; do wait $pid || return 1; done; }
receive() { [ "$(nc 10.0.2.2 5001 0<> /tmp/pipe | wc -c)" = 67108864 ]; }
mkfifo /tmp/pipe
ip link set eth0 mtu 65520; ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0
for disk in vdb vdc; do begin read_4k $disk; begin read_1m $disk; done
begin receive
"#;
