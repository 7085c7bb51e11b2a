//! The plugin: serving, registering, and doing both again.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::grpc::client;
use crate::grpc::server::{self, Answer, INVALID, Service, UNIMPLEMENTED};
use crate::{MAX_DEVICES, NodeError, Options, messages};

/// The kubelet's socket in its folder for plugins.
const KUBELET: &str = "kubelet.sock";

/// Most containers in one request for devices: more than a pod has.
const MAX_CONTAINERS: usize = 1024;

/// How often the device is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// What the kernel tells of its devices (sysfs(5)).
const CLASSES: &str = "/sys/class";

/// How long to wait before another attempt to register, the first time and at
/// most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The kubelet has taken the plugin.
    Registered,
    /// It has not; the plugin will try again.
    Refused(String),
    /// Whether the device can be used, at the start and when that changes.
    Usable(Result<(), String>),
}

/// Offers what `options` say until something of the plugin's own is lost;
/// tells what happens.
///
/// # Errors
/// The folder for plugins cannot be watched, or no socket made in it.
pub async fn run(options: Options, tell: impl Fn(Event) + Send + 'static) -> Result<(), NodeError> {
    let endpoint = format!("{}.sock", options.resource.replace('/', "_"));
    let socket = options.plugins.join(&endpoint);
    let kubelet = options.plugins.join(KUBELET);
    let mut changes = crate::watch::folder(&options.plugins)?;
    let mut usable = look(Path::new(&options.device), Path::new(CLASSES));
    tell(Event::Usable(usable.clone()));
    let (list, listed) = watch::channel(offer(&options, usable.is_ok()));
    let service = Arc::new(Plugin {
        device: options.device.clone(),
        list: listed,
    });
    let mut serving: Option<Serving> = None;
    // The socket of the kubelet that has taken the plugin.
    let mut known: Option<Identity> = None;
    let mut pause = FIRST_PAUSE;
    let mut again = Instant::now();
    loop {
        let now = Instant::now();
        if serving.as_ref().is_none_or(|serving| !serving.is_there()) {
            // The kubelet removes all sockets when it starts.
            serving = Some(Serving::start(&socket, Arc::clone(&service))?);
            known = None;
        }
        let there = Identity::of(&kubelet);
        if there != known && now >= again {
            known = None;
            if there.is_some() {
                let request = messages::register_request(&endpoint, &options.resource);
                match client::call(&kubelet, "/v1beta1.Registration/Register", &request).await {
                    Ok(_) => {
                        known = there;
                        pause = FIRST_PAUSE;
                        tell(Event::Registered);
                    }
                    Err(why) => {
                        again = Instant::now() + pause;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        tell(Event::Refused(why));
                    }
                }
            }
        }
        let wake = match there != known && there.is_some() {
            true => again.min(now + LOOK),
            false => now + LOOK,
        };
        tokio::select! {
            // Without a watch, looking from time to time has to do.
            Some(()) = changes.recv() => {}
            () = sleep_until(wake) => {}
        }
        let found = look(Path::new(&options.device), Path::new(CLASSES));
        if found != usable {
            usable = found;
            list.send_replace(offer(&options, usable.is_ok()));
            tell(Event::Usable(usable.clone()));
        }
    }
}

fn offer(options: &Options, healthy: bool) -> Bytes {
    let count = options.count.clamp(1, MAX_DEVICES);
    messages::list_and_watch_response(count, healthy).freeze()
}

/// Whether the device is one and can be used.
///
/// A container that has not been given the device sees no file of it, or may
/// not open that by its control group (EPERM). Whether there is a driver, the
/// kernel then says in `classes`: without one, there is no entry there.
fn look(device: &Path, classes: &Path) -> Result<(), String> {
    let said = |error: io::Error| format!("{}: {error}", device.display());
    let opened = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(device);
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            let out_of_reach = error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::PERM.raw_os_error());
            // Where the kernel itself would put it (devtmpfs).
            let name = device.strip_prefix("/dev").ok();
            let driver = name.map(|name| classes.join("misc").join(name));
            return match driver.filter(|_| out_of_reach) {
                Some(driver) if driver.is_dir() => Ok(()),
                _ => Err(said(error)),
            };
        }
    };
    match file.metadata().map_err(said)?.file_type().is_char_device() {
        true => Ok(()),
        false => Err(format!("{} is no device", device.display())),
    }
}

/// What tells a socket from another one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl Identity {
    fn of(socket: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(socket).ok()?;
        metadata.file_type().is_socket().then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            made: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// A socket that is served.
#[derive(Debug)]
struct Serving {
    socket: PathBuf,
    identity: Option<Identity>,
    task: JoinHandle<()>,
}

impl Serving {
    fn start(socket: &Path, service: Arc<Plugin>) -> Result<Self, NodeError> {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(|error| NodeError::Io {
            path: socket.to_owned(),
            error,
        })?;
        Ok(Self {
            socket: socket.to_owned(),
            identity: Identity::of(socket),
            task: tokio::spawn(server::serve(listener, service)),
        })
    }

    fn is_there(&self) -> bool {
        Identity::of(&self.socket) == self.identity
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        if self.is_there() {
            let _ = fs::remove_file(&self.socket);
        }
    }
}

/// Answers the kubelet.
#[derive(Debug)]
struct Plugin {
    device: String,
    list: watch::Receiver<Bytes>,
}

impl Service for Plugin {
    fn call(&self, path: &str, request: &[u8]) -> Answer {
        match path.strip_prefix("/v1beta1.DevicePlugin/") {
            // No options: both are false.
            Some("GetDevicePluginOptions") => Answer::One(bytes::BytesMut::new()),
            Some("ListAndWatch") => Answer::Many(self.list.clone()),
            Some("Allocate") => match messages::containers(request) {
                Some(count) if count <= MAX_CONTAINERS => {
                    Answer::One(messages::allocate_response(count, &self.device))
                }
                Some(_) => Answer::Refused(INVALID, "more containers than a pod has"),
                None => Answer::Refused(INVALID, "the message cannot be read"),
            },
            // The kubelet does not call them without these options.
            Some("PreStartContainer" | "GetPreferredAllocation") => {
                Answer::Refused(UNIMPLEMENTED, "the options say that there is none")
            }
            _ => Answer::Refused(UNIMPLEMENTED, "there is no such method"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_device_out_of_reach_is_usable_if_the_kernel_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let classes = dir.path();
        let device = Path::new("/dev/bootwright-test");
        let error = look(device, classes).unwrap_err();
        assert!(error.contains("bootwright-test: No such file"), "{error}");
        fs::create_dir_all(classes.join("misc/bootwright-test")).unwrap();
        look(device, classes).unwrap();
        // Not elsewhere, though.
        let elsewhere = classes.join("bootwright-test");
        assert!(look(&elsewhere, classes).is_err());
        fs::write(&elsewhere, "").unwrap();
        let error = look(&elsewhere, classes).unwrap_err();
        assert!(error.ends_with("bootwright-test is no device"), "{error}");
        look(Path::new("/dev/null"), classes).unwrap();
    }
}
