use serde_json::json;

use super::*;

fn good() -> serde_json::Value {
    json!({
        "created": "2024-05-06T07:08:09.123Z",
        "architecture": "arm64", "variant": "v8", "os": "linux",
        "config": {
            "User": "", "ExposedPorts": {"80/tcp": {}, "22/tcp": {}}, "Env": ["A=b"],
            "Entrypoint": ["/init"], "Cmd": null, "Volumes": null, "WorkingDir": "/srv",
            "Labels": {"z": "1", "a": "2"}, "ArgsEscaped": true, "OnBuild": null,
        },
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(b"1").to_string(), Digest::sha256(b"2").to_string()]},
        "history": [
            {"created": "2024-05-06T07:08:09Z", "created_by": "COPY x", "comment": "buildkit"},
            {"created_by": "CMD", "empty_layer": true},
        ],
        "container_config": {"Hostname": "x"}, "docker_version": "20.10",
    })
}

fn parse(value: &serde_json::Value) -> Result<ImageConfig, ConfigError> {
    ImageConfig::parse(value.to_string().as_bytes())
}

#[test]
fn a_config_of_docker_is_read() {
    let config = parse(&good()).unwrap();
    assert_eq!(config.platform.to_string(), "linux/arm64");
    assert_eq!(config.created.as_deref(), Some("2024-05-06T07:08:09.123Z"));
    assert_eq!(config.user, None);
    assert_eq!(config.env, ["A=b"]);
    assert_eq!(config.entrypoint, ["/init"]);
    assert!(config.cmd.is_empty() && config.volumes.is_empty());
    assert_eq!(config.exposed_ports, ["22/tcp", "80/tcp"]);
    assert_eq!(config.labels.keys().collect::<Vec<_>>(), ["a", "z"]);
    assert_eq!(
        config.diff_ids,
        [Digest::sha256(b"1"), Digest::sha256(b"2")]
    );
    assert_eq!(config.history.len(), 2);
    assert!(config.history[1].empty_layer);
}

#[test]
fn the_identity_is_that_of_platform_and_content() {
    let identity = |value: &serde_json::Value| parse(value).unwrap().identity();
    let expected = format!(
        "bootwright image 1\nplatform linux/arm64\nlayer {}\nlayer {}\n",
        Digest::sha256(b"1"),
        Digest::sha256(b"2")
    );
    assert_eq!(identity(&good()), Digest::sha256(expected.as_bytes()));

    let mut same = good();
    same.as_object_mut().unwrap().remove("variant");
    same.as_object_mut().unwrap().remove("history");
    same["config"] = json!({});
    assert_eq!(identity(&same), identity(&good()));
    type Change = fn(&mut serde_json::Value);
    let changes: [Change; 4] = [
        |v| v["architecture"] = "amd64".into(),
        |v| v["variant"] = "v9".into(),
        |v| v["rootfs"]["diff_ids"].as_array_mut().unwrap().reverse(),
        |v| v["rootfs"]["diff_ids"].as_array_mut().unwrap().truncate(1),
    ];
    for change in changes {
        let mut other = good();
        change(&mut other);
        assert_ne!(identity(&other), identity(&good()), "{other}");
    }
}

#[test]
fn a_config_that_is_none_is_refused() {
    type Change = fn(&mut serde_json::Value);
    let table: [(Change, &str); 7] = [
        (|v| v["os"] = "".into(), "os and architecture"),
        (
            |v| v["architecture"] = "a\u{1b}[31m".into(),
            "os and architecture",
        ),
        (
            |v| drop(v.as_object_mut().unwrap().remove("os")),
            "no valid image config",
        ),
        (
            |v| v["rootfs"]["type"] = "files".into(),
            "expected \"layers\"",
        ),
        (
            |v| v["rootfs"]["diff_ids"][1] = "sha256:12".into(),
            "diff_ids[1]",
        ),
        (
            |v| v["rootfs"]["diff_ids"] = vec![Digest::sha256(b"").to_string(); 1001].into(),
            "1001 entries",
        ),
        (|v| *v = json!([]), "no valid image config"),
    ];
    for (change, part) in table {
        let mut value = good();
        change(&mut value);
        let error = parse(&value).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}
