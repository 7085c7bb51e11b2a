//! The plugin and a kubelet's end of its protocol, which tonic speaks.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations
)]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bootwright_node::{Event, Options, run};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, client};
use tonic_prost::ProstCodec;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct RegisterRequest {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PluginOptions {
    #[prost(bool, tag = "1")]
    pre_start_required: bool,
    #[prost(bool, tag = "2")]
    get_preferred_allocation_available: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListAndWatchResponse {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerAllocateRequest {
    #[prost(string, repeated, tag = "1")]
    devices_ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AllocateRequest {
    #[prost(message, repeated, tag = "1")]
    container_requests: Vec<ContainerAllocateRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeviceSpec {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerAllocateResponse {
    #[prost(message, repeated, tag = "3")]
    devices: Vec<DeviceSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AllocateResponse {
    #[prost(message, repeated, tag = "1")]
    container_responses: Vec<ContainerAllocateResponse>,
}

/// The kubelet's registry: hands on what registers, or refuses it.
#[derive(Debug, Clone)]
struct Registry {
    registered: mpsc::UnboundedSender<RegisterRequest>,
    refuses: bool,
}

impl UnaryService<RegisterRequest> for Registry {
    type Response = Empty;
    type Future = BoxFuture<Response<Empty>, Status>;

    fn call(&mut self, request: Request<RegisterRequest>) -> Self::Future {
        let result = match self.refuses {
            true => Err(Status::invalid_argument("unsupported API version")),
            false => Ok(Response::new(Empty {})),
        };
        let _ = self.registered.send(request.into_inner());
        Box::pin(async move { result })
    }
}

impl NamedService for Registry {
    const NAME: &'static str = "v1beta1.Registration";
}

impl Service<http::Request<tonic::body::Body>> for Registry {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/v1beta1.Registration/Register");
        let this = self.clone();
        Box::pin(async move {
            let mut grpc =
                tonic::server::Grpc::new(ProstCodec::<Empty, RegisterRequest>::default());
            Ok(grpc.unary(this, request).await)
        })
    }
}

/// A node: a folder for plugins, and a plugin with a device.
struct Node {
    dir: tempfile::TempDir,
    events: mpsc::UnboundedReceiver<Event>,
    plugin: JoinHandle<()>,
}

impl Node {
    /// `/dev/null` is a device that anybody can open.
    fn start(count: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("kvm");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let options = Options {
            plugins,
            device: device.to_str().unwrap().to_owned(),
            count,
            ..Options::default()
        };
        let (sender, events) = mpsc::unbounded_channel();
        let plugin = tokio::spawn(async move {
            run(options, move |event| drop(sender.send(event)))
                .await
                .unwrap();
        });
        Self {
            dir,
            events,
            plugin,
        }
    }

    fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// Starts a kubelet, which clears its folder first, as the real one does.
    fn kubelet(&self, refuses: bool) -> Kubelet {
        for entry in std::fs::read_dir(self.plugins()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let listener = UnixListener::bind(self.plugins().join("kubelet.sock")).unwrap();
        let (registered, registrations) = mpsc::unbounded_channel();
        let registry = Registry {
            registered,
            refuses,
        };
        let server = tokio::spawn(async move {
            Server::builder()
                .add_service(registry)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        Kubelet {
            registrations,
            server,
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) {
        loop {
            let event = within(self.events.recv()).await.unwrap();
            if wanted(&event) {
                return;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.plugin.abort();
    }
}

struct Kubelet {
    registrations: mpsc::UnboundedReceiver<RegisterRequest>,
    server: JoinHandle<()>,
}

impl Kubelet {
    async fn registration(&mut self) -> RegisterRequest {
        within(self.registrations.recv()).await.unwrap()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

/// A client of the plugin's.
async fn connect(socket: &Path) -> client::Grpc<Channel> {
    let socket = Arc::new(socket.to_owned());
    let connector = tower::service_fn(move |_| {
        let socket = Arc::clone(&socket);
        async move { UnixStream::connect(&*socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://plugin");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    client::Grpc::new(channel)
}

async fn unary<A, B>(
    client: &mut client::Grpc<Channel>,
    method: &str,
    request: A,
) -> Result<B, Status>
where
    A: prost::Message + 'static,
    B: prost::Message + Default + 'static,
{
    within(client.ready()).await.unwrap();
    let path = format!("/v1beta1.DevicePlugin/{method}").parse().unwrap();
    let codec = ProstCodec::<A, B>::default();
    let answer = within(client.unary(Request::new(request), path, codec)).await;
    answer.map(Response::into_inner)
}

async fn watch(client: &mut client::Grpc<Channel>) -> tonic::Streaming<ListAndWatchResponse> {
    within(client.ready()).await.unwrap();
    let path = "/v1beta1.DevicePlugin/ListAndWatch".parse().unwrap();
    let codec = ProstCodec::<Empty, ListAndWatchResponse>::default();
    let answer = within(client.server_streaming(Request::new(Empty {}), path, codec)).await;
    answer.unwrap().into_inner()
}

fn healthy(list: &ListAndWatchResponse) -> usize {
    list.devices
        .iter()
        .filter(|d| d.health == "Healthy")
        .count()
}

#[tokio::test]
async fn a_kubelet_is_told_of_the_devices_and_given_them() {
    let node = Node::start(110);
    let mut kubelet = node.kubelet(false);
    let registration = kubelet.registration().await;
    assert_eq!(registration.version, "v1beta1");
    assert_eq!(registration.resource_name, "bootwright.dev/kvm");

    let mut client = connect(&node.plugins().join(&registration.endpoint)).await;
    let options: PluginOptions = unary(&mut client, "GetDevicePluginOptions", Empty {})
        .await
        .unwrap();
    assert_eq!(options, PluginOptions::default());
    let mut list = watch(&mut client).await;
    let first = within(list.message()).await.unwrap().unwrap();
    assert_eq!(healthy(&first), 110);
    let ids: std::collections::BTreeSet<_> = first.devices.iter().map(|d| &d.id).collect();
    assert_eq!(ids.len(), 110);

    let container = |n: usize| ContainerAllocateRequest {
        devices_ids: vec![format!("kvm{n}")],
    };
    let request = AllocateRequest {
        container_requests: vec![container(3), container(4)],
    };
    let given: AllocateResponse = unary(&mut client, "Allocate", request).await.unwrap();
    assert_eq!(given.container_responses.len(), 2);
    let path = node.dir.path().join("kvm").to_str().unwrap().to_owned();
    for container in given.container_responses {
        let device = DeviceSpec {
            container_path: path.clone(),
            host_path: path.clone(),
            permissions: "rw".to_owned(),
        };
        assert_eq!(container.devices, [device]);
    }
    for method in ["PreStartContainer", "GetPreferredAllocation", "Nothing"] {
        let error = unary::<Empty, Empty>(&mut client, method, Empty {})
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{method}");
    }
}

#[tokio::test]
async fn many_devices_take_several_windows_of_the_stream() {
    let node = Node::start(10_000);
    let mut kubelet = node.kubelet(false);
    let registration = kubelet.registration().await;
    let mut client = connect(&node.plugins().join(&registration.endpoint)).await;
    let mut list = watch(&mut client).await;
    let first = within(list.message()).await.unwrap().unwrap();
    assert_eq!(healthy(&first), 10_000);
}

#[tokio::test]
async fn a_device_that_goes_and_comes_is_told_while_it_happens() {
    let mut node = Node::start(3);
    let mut kubelet = node.kubelet(false);
    let registration = kubelet.registration().await;
    let mut client = connect(&node.plugins().join(&registration.endpoint)).await;
    let mut list = watch(&mut client).await;
    assert_eq!(healthy(&within(list.message()).await.unwrap().unwrap()), 3);
    let device = node.dir.path().join("kvm");
    std::fs::remove_file(&device).unwrap();
    // Whatever happens in the folder has the plugin look at once.
    std::fs::write(node.plugins().join("other"), "").unwrap();
    let gone = within(list.message()).await.unwrap().unwrap();
    assert_eq!((gone.devices.len(), healthy(&gone)), (3, 0));
    node.until(|event| matches!(event, Event::Usable(Err(why)) if why.contains("kvm")))
        .await;
    // A file in its place is no device.
    std::fs::write(&device, "").unwrap();
    std::fs::remove_file(node.plugins().join("other")).unwrap();
    node.until(|event| matches!(event, Event::Usable(Err(why)) if why.contains("no device")))
        .await;
    std::fs::remove_file(&device).unwrap();
    std::os::unix::fs::symlink("/dev/null", &device).unwrap();
    std::fs::write(node.plugins().join("other"), "").unwrap();
    loop {
        let list = within(list.message()).await.unwrap().unwrap();
        if healthy(&list) == 3 {
            return;
        }
    }
}

#[tokio::test]
async fn a_kubelet_that_starts_again_finds_the_plugin_again() {
    let mut node = Node::start(1);
    for _ in 0..3 {
        let mut kubelet = node.kubelet(false);
        let registration = kubelet.registration().await;
        node.until(|event| *event == Event::Registered).await;
        let socket = node.plugins().join(&registration.endpoint);
        let mut client = connect(&socket).await;
        let mut list = watch(&mut client).await;
        assert_eq!(healthy(&within(list.message()).await.unwrap().unwrap()), 1);
        drop(kubelet);
    }
}

#[tokio::test]
async fn a_kubelet_that_refuses_is_asked_again() {
    let mut node = Node::start(1);
    let mut kubelet = node.kubelet(true);
    for _ in 0..2 {
        kubelet.registration().await;
        let refused = |event: &Event| matches!(event, Event::Refused(why) if why.contains("unsupported API version"));
        node.until(refused).await;
    }
}

#[tokio::test]
async fn nonsense_does_not_end_the_plugin() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = Node::start(1);
    let mut kubelet = node.kubelet(false);
    let socket = node.plugins().join(kubelet.registration().await.endpoint);
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
    }
    let mut client = connect(&socket).await;
    let options: PluginOptions = unary(&mut client, "GetDevicePluginOptions", Empty {})
        .await
        .unwrap();
    assert_eq!(options, PluginOptions::default());
}
