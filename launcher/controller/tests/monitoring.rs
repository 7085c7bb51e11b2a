//! The rules of `templates/cluster/monitoring`, judged by promtool.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output = output.expect("promtool is missing: cargo xtask setup (Debian: prometheus)");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn rules_are_understood_and_fire_when_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let file = workspace().join("templates/cluster/monitoring/rules.yaml");
    let object: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let rules = dir.path().join("rules.yaml");
    fs::write(&rules, object["spec"].to_string()).unwrap();
    promtool(&["check", "rules"], &rules);
    let tests = workspace().join("testdata/monitoring/rules.test.yaml");
    let text = fs::read_to_string(tests).unwrap();
    let alerts = object["spec"]["groups"].as_array().unwrap().iter();
    let alerts = alerts.flat_map(|group| group["rules"].as_array().unwrap());
    for alert in alerts.filter_map(|rule| rule["alert"].as_str()) {
        let tested = text.contains(&format!("alertname: {alert}\n"));
        assert!(tested, "no test lets {alert} fire");
    }
    let tests = dir.path().join("tests.yaml");
    fs::write(&tests, text.replace("[RULES]", "[rules.yaml]")).unwrap();
    promtool(&["test", "rules"], &tests);
}

#[test]
fn the_configuration_without_operator_is_understood_and_finds_the_same_pods() {
    let folder = workspace().join("templates/cluster/monitoring");
    let text = fs::read_to_string(folder.join("prometheus.yaml")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    // Debian's promtool knows everything in it but how pods are discovered.
    let mut known = config.clone();
    for job in known["scrape_configs"].as_array_mut().unwrap() {
        let discovery = job.as_object_mut().unwrap();
        let found = discovery.remove("kubernetes_sd_configs").unwrap();
        assert_eq!(found[0]["role"], "pod");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), known.to_string()).unwrap();
    promtool(&["check", "config", "--syntax-only"], file.path());
    let text = fs::read_to_string(folder.join("podmonitors.yaml")).unwrap();
    let monitors: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let jobs = config["scrape_configs"].as_array().unwrap();
    assert_eq!(monitors.len(), jobs.len());
    for (monitor, job) in monitors.iter().zip(jobs) {
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        assert_eq!(monitor["metadata"]["name"], job["job_name"]);
        assert_eq!(endpoint["honorLabels"], job["honor_labels"], "{job}");
        let keep = &job["relabel_configs"][0];
        let port = endpoint["port"].as_str().unwrap();
        let regex = keep["regex"].as_str().unwrap();
        assert!(regex.ends_with(&format!(";{port}")), "{regex}");
        // Labels that the operator adds by itself are namespace and pod.
        for relabeling in endpoint["relabelings"].as_array().into_iter().flatten() {
            let all = job["relabel_configs"].as_array().unwrap();
            let same = all.iter().any(|other| {
                other["source_labels"] == relabeling["sourceLabels"]
                    && other["target_label"] == relabeling["targetLabel"]
            });
            assert!(same, "{relabeling}");
        }
    }
}
