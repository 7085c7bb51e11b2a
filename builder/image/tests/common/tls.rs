//! Certificates of a private authority, made by openssl.

use std::fs;

use super::{run, text};

/// A directory with `ca.crt`, `server.{crt,key}` and `client.{cert,key}`.
pub struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let made = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let path = |name| made.path(name);
        let new = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ];
        run(
            "openssl",
            &[
                &new[..],
                &[
                    "-subj",
                    "/CN=Test CA",
                    "-keyout",
                    &path("ca.key"),
                    "-out",
                    &path("ca.crt"),
                ],
            ]
            .concat(),
        );
        let server = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n";
        made.sign("server", "crt", server);
        made.sign("client", "cert", "extendedKeyUsage=clientAuth\n");
        made
    }

    fn sign(&self, name: &str, extension: &str, extensions: &str) {
        let path = |suffix: &str| self.path(&format!("{name}.{suffix}"));
        fs::write(path("ext"), extensions).unwrap();
        let subject = format!("/CN={name}");
        run(
            "openssl",
            &[
                "req",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                &subject,
                "-keyout",
                &path("key"),
                "-out",
                &path("csr"),
            ],
        );
        run(
            "openssl",
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &path("csr"),
                "-CA",
                &self.path("ca.crt"),
                "-CAkey",
                &self.path("ca.key"),
                "-CAcreateserial",
                "-extfile",
                &path("ext"),
                "-out",
                &path(extension),
            ],
        );
    }

    pub fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name)).to_owned()
    }

    /// A directory in podman's form with these files of ours.
    pub fn cert_dir(&self, names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::copy(self.path(name), dir.path().join(name)).unwrap();
        }
        dir
    }
}
