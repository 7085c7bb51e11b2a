//! A real registry of our own.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tls::Certificates;

/// How a registry is set up.
#[derive(Default)]
pub struct Setup<'a> {
    /// Where its content is, if that is to outlive it.
    pub data: Option<&'a Path>,
    pub tls: Option<&'a Certificates>,
    pub client_certificates: bool,
    /// A file made by htpasswd.
    pub htpasswd: Option<&'a Path>,
    /// A token server's address.
    pub token_realm: Option<&'a str>,
    pub token_certificates: Option<&'a Certificates>,
    /// The registry's program, if it is not docker-registry.
    pub program: Option<&'a Path>,
    pub read_only: bool,
}

/// A running registry; ends with this value.
pub struct Registry {
    child: Child,
    pub port: u16,
    log: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub fn start(setup: &Setup<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The port may be taken between here and there; then try another.
        for _ in 0..5 {
            if let Some((child, port)) = Self::try_start(dir.path(), setup) {
                return Self {
                    child,
                    port,
                    log: dir.path().join("log"),
                    _dir: dir,
                };
            }
        }
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("docker-registry does not start: {log}");
    }

    fn try_start(dir: &Path, setup: &Setup<'_>) -> Option<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            setup.data.unwrap_or(&dir.join("data")).display()
        );
        if setup.read_only {
            let lines = "  maintenance:\n    readonly:\n      enabled: true\n";
            config = config.replace("http:\n", &format!("{lines}http:\n"));
        }
        if let Some(tls) = setup.tls {
            let (certificate, key) = (tls.path("server.crt"), tls.path("server.key"));
            config += &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
            if setup.client_certificates {
                config += &format!("    clientcas: [{}]\n", tls.path("ca.crt"));
            }
        }
        if let Some(path) = setup.htpasswd {
            let path = path.display();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}\n");
        }
        if let Some(realm) = setup.token_realm {
            let bundle = setup.token_certificates.unwrap().path("server.crt");
            config += &format!(
                "auth:\n  token:\n    realm: {realm}\n    service: test\n    issuer: test-issuer\n    \
                 rootcertbundle: {bundle}\n"
            );
        }
        fs::write(dir.join("config.yml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let program = setup.program.unwrap_or(Path::new("docker-registry"));
        let mut child = Command::new(program)
            .arg("serve")
            .arg(dir.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{} is needed by this test: {e}", program.display()));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some((child, port));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What the registry logged so far.
    pub fn log(&self) -> String {
        let mut text = String::new();
        fs::File::open(&self.log)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
