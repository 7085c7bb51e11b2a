//! Controllers that die, meet, or lose the API server; objects that are not
//! what they should be.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Controller, DEFINITIONS, World, eventually};

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_controller_that_starts_anew_adopts_what_is_there() {
    let world = World::new("ctl-adopts").await;
    let controller = Controller::start(&world.namespace, &[]);
    world.create("web", "Always", "").await;
    world.create("rerun", "RerunOnFailure", "ends").await;
    world.until("web", "Running").await;
    world.until("rerun", "Stopped").await;
    let (web, rerun) = (world.pod("web").await, world.pod("rerun").await);
    controller.kill();
    // What happens while there is none is caught up with.
    world.create("late", "Always", "").await;
    world.delete("rerun").await;
    let controller = Controller::start(&world.namespace, &[]);
    world.until("late", "Running").await;
    eventually(|| async {
        let vm = world.machines().get_opt("rerun").await.unwrap();
        vm.is_none()
            .then_some(())
            .ok_or("it is still there".to_owned())
    })
    .await;
    assert!(rerun.is_some());
    assert_eq!(world.pod("web").await, web, "its machine went on");
    assert_eq!(world.events("web").await["SuccessfulCreate"], 1);
    drop(controller);
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn of_two_controllers_one_leads_and_the_other_follows_it() {
    let world = World::new("ctl-two").await;
    let lease = format!("--lease={}/controller", world.namespace);
    let first = Controller::start(&world.namespace, &[&lease]);
    eventually(|| async {
        let leader = first.metric("bootwright_controller_leader").await;
        (leader == 1.0)
            .then_some(())
            .ok_or("nobody leads".to_owned())
    })
    .await;
    let second = Controller::start(&world.namespace, &[&lease]);
    world.create("web", "Always", "").await;
    world.until("web", "Running").await;
    eventually(|| async {
        let answer = second.get("/readyz").await.unwrap_or_default();
        answer
            .0
            .contains(" 200 ")
            .then_some(())
            .ok_or(format!("{answer:?}"))
    })
    .await;
    assert_eq!(second.metric("bootwright_controller_leader").await, 0.0);
    assert_eq!(second.writes().await, 0.0, "a follower writes nothing");
    // One that ends in good order leaves the lease at once.
    first.terminate().await;
    world.create("next", "Always", "").await;
    world.until("next", "Running").await;
    assert_eq!(second.metric("bootwright_controller_leader").await, 1.0);
    // One that dies leaves it to run out.
    let third = Controller::start(&world.namespace, &[&lease]);
    second.kill();
    world.create("last", "Always", "").await;
    world.until("last", "Running").await;
    assert_eq!(third.metric("bootwright_controller_leader").await, 1.0);
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn two_controllers_that_do_not_know_of_each_other_run_a_machine_once() {
    let world = World::new("ctl-blind").await;
    let _controllers = [
        Controller::start(&world.namespace, &[]),
        Controller::start(&world.namespace, &[]),
    ];
    for index in 0..10 {
        world.create(&format!("vm-{index}"), "Always", "").await;
    }
    let mut pods = Vec::new();
    for index in 0..10 {
        let name = format!("vm-{index}");
        world.until(&name, "Running").await;
        pods.push(world.pod(&name).await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (index, pod) in pods.into_iter().enumerate() {
        assert_eq!(world.pod(&format!("vm-{index}")).await, pod);
    }
}

/// Passes connections on to the API server as long as it is open.
struct Door {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Door {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicBool::new(true));
        let door = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                if !door.load(Ordering::SeqCst) {
                    continue;
                }
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    let Ok(mut outer) = TcpStream::connect(server).await else {
                        return;
                    };
                    let both = tokio::io::copy_bidirectional(&mut inner, &mut outer);
                    let shut = async {
                        while door.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    };
                    tokio::select! {
                        _ = both => {}
                        () = shut => {}
                    }
                });
            }
        });
        Self { address, open }
    }
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn an_api_server_that_is_gone_for_a_while_is_waited_for() {
    let world = World::new("ctl-gone").await;
    let path = std::env::var("KUBECONFIG").unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let server: SocketAddr = server.trim_start_matches("https://").parse().unwrap();
    let door = Door::to(server).await;
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", door.address));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config.to_string()).unwrap();
    let lease = format!("--lease={}/controller", world.namespace);
    let controller = Controller::start_with(&world.namespace, &[&lease], Some(file.path()));
    world.create("web", "Always", "").await;
    world.until("web", "Running").await;
    let web = world.pod("web").await;
    door.open.store(false, Ordering::SeqCst);
    // What was under way is through, or cut off.
    eventually(|| async {
        let log = controller.log();
        log.contains("cannot watch")
            .then_some(())
            .ok_or("it still watches".to_owned())
    })
    .await;
    // Meanwhile a machine comes and another's pod goes.
    world.create("late", "Always", "").await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(controller.metric("bootwright_controller_leader").await, 0.0);
    assert_eq!(world.pod("late").await, None);
    door.open.store(true, Ordering::SeqCst);
    world.until("late", "Running").await;
    world.until("web", "Running").await;
    assert_eq!(world.pod("web").await, web);
    assert!(controller.log().contains("not leading any more"));
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn malformed_objects_are_told_left_alone_and_can_be_deleted() {
    let world = World::new("ctl-malformed").await;
    let crds: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let name = "virtualmachines.bootwright.dev";
    let strict = crds.get(name).await.unwrap();
    let mut loose = serde_json::to_value(&strict.spec).unwrap();
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    loose["versions"][0]["schema"]["openAPIV3Schema"] = any;
    let replace = |spec: Value| {
        let crds = crds.clone();
        async move {
            let how = PatchParams::default();
            let patch = Patch::Merge(json!({ "spec": spec }));
            crds.patch(name, &how, &patch).await.unwrap();
        }
    };
    // As if they had been stored before there was a definition.
    let turn = DEFINITIONS.lock().await;
    replace(loose).await;
    let kind = ApiResource::erase::<bootwright_controller::api::VirtualMachine>(&());
    let objects: Api<DynamicObject> =
        Api::namespaced_with(world.client.clone(), &world.namespace, &kind);
    for (name, spec) in [
        ("text", json!("not an object")),
        ("empty", json!({})),
        (
            "odd",
            json!({ "runStrategy": "Sometimes", "template": [1, 2] }),
        ),
    ] {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "bootwright.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": { "name": name, "finalizers": ["bootwright.dev/pod"] },
            "spec": spec,
        }))
        .unwrap();
        eventually(|| async {
            let how = PostParams::default();
            let created = objects.create(&how, &object).await;
            created.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    replace(serde_json::to_value(&strict.spec).unwrap()).await;
    drop(turn);
    let controller = Controller::start(&world.namespace, &[]);
    // They do not hide the others.
    world.create("web", "Always", "").await;
    world.until("web", "Running").await;
    for name in ["text", "empty", "odd"] {
        eventually(|| async {
            let events = world.events(name).await;
            (events.get("Malformed") == Some(&1))
                .then_some(())
                .ok_or(format!("{events:?}"))
        })
        .await;
        objects
            .delete(name, &kube::api::DeleteParams::default())
            .await
            .unwrap();
        eventually(|| async {
            let object = objects.get_opt(name).await.unwrap();
            object
                .is_none()
                .then_some(())
                .ok_or(format!("{name} is still there"))
        })
        .await;
    }
    drop(controller);
}
