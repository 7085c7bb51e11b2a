//! Pods in L1: their files, and what a node does for them.
//!
//! In: the machines of `testdata/pods`, the launcher's image, and a runtime of
//! containers. Out: the folder `pods` of L1's disk, in which a scenario finds
//! what it starts them with.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::assets::Lab;
use super::scenarios::{POD, Scenario};
use crate::images::{self, Files};
use crate::packages;
use crate::pod::{Bundle, Pod, SHIFT};

/// The runtime, what configures interfaces, and what asks over HTTP, with their
/// packages of Debian's.
const PROGRAMS: [&str; 3] = ["usr/bin/crun", "usr/bin/ip", "usr/bin/curl"];
const PACKAGES: [&str; 3] = ["crun", "curl", "iproute2"];

/// A pod: the manifest's name, and the owner of its root file system on the
/// node.
const PODS: [(&str, u32); 2] = [("bootable-container", SHIFT), ("container-disk", 0)];

/// Puts pods into `stage`, which is what L1's disk will hold.
pub(super) fn stage(lab: &Lab, stage: &Path) -> Result<()> {
    let pods = stage.join("pods");
    let _ = fs::remove_dir_all(&pods);
    fs::create_dir_all(&pods)?;
    let root = packages::unpack("runtime", &PACKAGES)?;
    let mut programs = Files::default();
    for program in PROGRAMS {
        programs.take(&root, program)?;
    }
    fs::write(pods.join("runtime.tar"), programs.tar()?)?;
    for (n, layer) in images::launcher(&lab.binary)?.into_iter().enumerate() {
        fs::write(pods.join(format!("launcher{n}.tar")), layer)?;
    }
    fs::write(pods.join("node"), NODE)?;
    fs::write(pods.join("network"), NETWORK)?;
    for (n, (name, owner)) in PODS.into_iter().enumerate() {
        let pod = Pod::of(name)?;
        let folder = pods.join(name);
        let put = |file: &str, text: &str| {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap_or(&folder))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let config = Bundle {
            pod: &pod,
            name,
            folder: &format!("/disk/pods/{name}"),
            network: &["/bin/sh", "/disk/pods/network", &n.to_string()],
        };
        put("config.json", &config.config()?.to_string())?;
        put("owner", &format!("{owner}:{owner}\n"))?;
        put("hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        put("hostname", &format!("{name}\n"))?;
        put("resolv.conf", "nameserver 10.0.2.3\n")?;
        put("termination-log", "")?;
        put("volumes/bootwright-machine/machine.json", pod.machine()?)?;
        put("volumes/bootwright-machine/paused", "")?;
        for volume in ["root", "bootwright-scratch"] {
            fs::create_dir_all(folder.join("volumes").join(volume))?;
        }
    }
    Ok(())
}

/// What a node does: it has cgroups, a runtime and a device that pods may use;
/// it unpacks the launcher's image; and it runs a pod, tells what its
/// processes take, and ends it.
///
/// Memory beside the guest's is told in two ways: what is resident in its
/// processes but for shared memory, which is the guest's, with the pages of the
/// program once, though two processes have them; and what the kernel charges
/// the pod for that is neither that memory nor a cache that it gives back.
const NODE: &str = r#"
pods=/disk/pods
with() { unshare -m sh -c 'mount -o bind /runtime/usr/lib /lib
  mount -o bind /runtime/usr/lib64 /lib64; exec "$@"' sh "$@"; }
crun() { with /runtime/usr/bin/crun --cgroup-manager cgroupfs "$@"; }
node() {
  if mkdir /tmp/node 2>/dev/null; then
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir /sys/fs/cgroup/kubepods /runtime
    for group in . kubepods; do
      echo '+cpu +cpuset +memory +pids' > /sys/fs/cgroup/$group/cgroup.subtree_control; done
    # A runtime has a pod run on any processor; L1's first must not run guests.
    echo 1-2 > /sys/fs/cgroup/kubepods/cpuset.cpus
    tar -x -C /runtime -f $pods/runtime.tar && chmod 0666 /dev/kvm && chown -R 0:0 $pods &&
      touch /tmp/node/ready
  fi
  for i in $(seq 300); do [ -e /tmp/node/ready ] && return; sleep 0.2; done; false
}
start() {
  pod=$1 folder=$pods/$1 group=/sys/fs/cgroup/kubepods/$1 most=0
  mkdir $folder/rootfs
  for layer in $pods/launcher*.tar; do tar -x -C $folder/rootfs -f $layer || return; done
  chown -R $(cat $folder/owner) $folder/rootfs
  chmod 0777 $folder/volumes/bootwright-scratch
  { crun run --bundle $folder --pid-file $folder/pid $pod > $folder/log 2>&1 < /dev/null
    echo $? > $folder/status; } &
}
say() { { tail -n 60 $folder/log; cat $folder/termination-log; echo "$@"; } >&2; exit 1; }
# until_ok SECONDS WHAT COMMAND...
until_ok() { patience=$1 what=$2; shift 2; begun=$(date +%s)
  until "$@"; do
    [ ! -e $folder/status ] || say "the launcher ended with $(cat $folder/status) before $what"
    [ $(($(date +%s) - begun)) -lt $patience ] || say "nothing after $patience s: $what"
    beside; sleep 1
  done; }
# The guest's memory is what is to come in huge pages (proc_pid_smaps(5)).
smaps() { for id in $(cat $group/cgroup.procs); do
    { tr '\0' ' ' < /proc/$id/cmdline; echo; cat /proc/$id/smaps; } 2>/dev/null; done; }
resident() { smaps | awk '/^Pss:/ { size = $2 } /^VmFlags:/ && !/ hg/ { sum += size; here += size }
    /^[A-Z][A-Za-z_]*:/ || /^[0-9a-f]+-[0-9a-f]+ / { next }
    { if (last) text = text " " last " " here; last = $1 " " $2; here = 0 }
    END { print int(sum) text " " last " " int(here) }'; }
guests() { smaps | awk '/^Rss:/ { size = $2 } /^VmFlags:.* hg/ { sum += size } END { print int(sum) }'; }
beside() { [ -e $group/cgroup.procs ] || return 0; now=$(resident); [ ${now%% *} -le ${most%% *} ] || most=$now; }
charged() { awk -v guest=$(guests) '$1 == "anon" { $2 -= guest * 1024 }
  $1 ~ /^(anon|kernel_stack|pagetables|sec_pagetables|percpu|sock|vmalloc|slab_unreclaimable)$/ {
    sum += $2; if ($2) text = text " " $1 " " int($2 / 1024) }
  END { print int(sum / 1024) " KiB charged beside the guest'"'"'s " guest ":" text }' $group/memory.stat; }
within() { beside; echo "$1: ${most%% *} KiB beside the guest's:${most#"${most%% *}"}"; charged
  [ $(charged | cut -d ' ' -f 1) -le 24576 ] || say "more than 24 MiB"; }
get() { with /runtime/usr/bin/curl --silent --fail --max-time 20 http://$address:$1; }
metric() { get 9478/metrics | grep -F "$1"; }
finished() { [ -e $folder/status ]; }
ended() { begun=$(date +%s); until finished; do
    [ $(($(date +%s) - begun)) -lt $1 ] || say "it did not end within $1 s"; sleep 1; done
  echo "ended with $(cat $folder/status)"; [ $(cat $folder/status) = 0 ] || say; }
"#;

/// Gives a pod its interface, as a hook of the runtime's, which is told the
/// state of the container.
const NETWORK: &str = r#"
ip() { /runtime/usr/bin/ip "$@"; }
pid=$(grep -o '"pid": *[0-9]*' | grep -o '[0-9]*$') host=node$1
ip link add $host type veth peer name pod$1
ip link set $host up; ip address add 10.213.$1.1/24 dev $host
ip link set pod$1 netns $pid name eth0
ip netns attach $pid $pid; inside() { ip -netns $pid "$@"; }
inside link set lo up; inside link set eth0 up; inside address add 10.213.$1.2/24 dev eth0
inside route add default via 10.213.$1.1
"#;

/// A machine from the files of the demo's image. It waits before its first
/// instruction: what the pod has taken by then is the launcher's. Then it goes
/// on, as its annotation asks, answers its probes and over HTTP, and is ended.
pub(super) const BOOTABLE_CONTAINER: Scenario = Scenario {
    name: "a pod's launcher boots an image's files, and its guest answers probes",
    command: r#"
. /disk/pods/node; node || exit; address=10.213.0.2
mount -t ext4 -o ro,noload /dev/vdb2 $pods/bootable-container/volumes/root || exit
echo "$(find $pods/bootable-container/volumes/root -xdev | wc -l) entries"
start bootable-container || exit
prepared() { metric 'stage_seconds{stage="kernel_loaded"}'; }
until_ok 300 'the kernel was loaded' prepared > /dev/null
metric 'stage="guest_entered"' && say 'the guest did not wait'
echo "$(awk '/^usage_usec/ { print int($2 / 1000) }' $group/cpu.stat) ms of processor time before the guest"
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$(cat $folder/pid)/status
cat $group/memory.max
within 'before the first instruction'
probe() { crun exec $pod /usr/bin/bootwright probe "$@" 2>&1; }
asked() { probe --exec readiness | tail -c 400; }
probe --exec liveness && say 'a guest that stands still answers'
echo false > $folder/volumes/bootwright-machine/paused
until_ok 800 'the guest had booted' probe > /dev/null
until_ok 300 'the application answered' get 80/
echo "liveness: $(probe --exec liveness)"
for n in 0 1 2 3 4; do echo "readiness: $(asked)"; sleep 4; done
within 'after the boot'
crun kill $pod TERM; ended 280
"#,
    lines: &[
        "entries",
        "ms of processor time before the guest",
        "Uid:\t632881152",
        "CapEff:\t0000000000000002",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "1142947840",
        "before the first instruction:",
        "KiB charged",
        "the guest does not take the question",
        "version 1",
        "liveness: active",
        "readiness: bootwright: the command ended in the guest with status 3: out",
        "err",
        "xxx",
        "$1 is 100% a \"b\" $c",
        "readiness: bootwright: the command did not end in the guest within 15 s",
        "readiness: bootwright: the command did not end in the guest within 15 s",
        // Nothing of what was ended is left.
        "readiness: bootwright: the command ended in the guest with status 1: 0",
        "after the boot:",
        "ended with 0",
    ],
    limit: 1500,
    ..POD
};

/// A disk in an image, whose launcher is anybody.
pub(super) const CONTAINER_DISK: Scenario = Scenario {
    name: "a pod's launcher at the level restricted boots a disk in an image",
    command: r#"
. /disk/pods/node; node || exit
mkdir $pods/container-disk/volumes/root/disk; touch $pods/container-disk/volumes/root/disk/disk.raw
mount -o bind /disk/foreign.raw $pods/container-disk/volumes/root/disk/disk.raw || exit
start container-disk || exit
started() { [ -s $folder/pid ]; }
until_ok 60 'there was a container' started
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$(cat $folder/pid)/status
until_ok 300 'it ended' finished
echo "${most%% *} KiB beside the guest's"; cat $folder/log; ended 10
"#,
    lines: &[
        "Uid:\t65532",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "init: reached on 6.1",
        "init: the disk's own",
        "ended with 0",
    ],
    ..POD
};
