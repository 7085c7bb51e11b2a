//! A token server: signs JSON web tokens that docker-registry verifies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::run;
use super::tls::Certificates;

/// The registry takes a token for so long after it expired.
pub const LEEWAY: u64 = 60;

/// The running server.
pub struct TokenServer {
    pub port: u16,
    /// Request lines with the body of POSTs.
    pub seen: Arc<Mutex<Vec<String>>>,
    /// How long tokens stay valid.
    pub life: Arc<Mutex<Duration>>,
}

/// Whom the server gives a token to.
#[derive(Clone, Copy)]
pub enum Admits {
    Anyone,
    /// `user:secret` by Basic.
    Password,
    /// The refresh token `refresh-me` by POST, or the same.
    RefreshToken,
}

impl TokenServer {
    /// Tokens stay valid for `life`.
    pub fn start(certificates: &Certificates, admits: Admits, life: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let signer = Signer::new(certificates);
        let life = Arc::new(Mutex::new(life));
        let (shared, lives) = (Arc::clone(&seen), Arc::clone(&life));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let life = *lives.lock().unwrap();
                let _ = answer(client, &signer, admits, life, &shared);
            }
        });
        Self { port, seen, life }
    }

    pub fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn answer(
    mut client: TcpStream,
    signer: &Signer,
    admits: Admits,
    life: Duration,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else {
            break;
        };
        match name.to_lowercase().as_str() {
            "authorization" => authorization = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    seen.lock().unwrap().push(format!("{} {body}", line.trim()));
    let password = authorization == format!("Basic {}", STANDARD.encode("user:secret"));
    let admitted = match admits {
        Admits::Anyone => true,
        Admits::Password => password,
        Admits::RefreshToken => {
            password || line.starts_with("POST") && body.contains("refresh_token=refresh-me")
        }
    };
    let (status, json) = match admitted {
        true => ("200 OK", json!({"token": signer.token(life)})),
        false => (
            "401 Unauthorized",
            json!({"errors": [{"code": "DENIED", "message": "who are you"}]}),
        ),
    };
    let json = json.to_string();
    let len = json.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    client.write_all((head + &json).as_bytes())
}

struct Signer {
    key: String,
    certificate: String,
}

impl Signer {
    fn new(certificates: &Certificates) -> Self {
        let pem = std::fs::read_to_string(certificates.path("server.crt")).unwrap();
        let certificate = pem.lines().filter(|l| !l.starts_with("--")).collect();
        Self {
            key: certificates.path("server.key"),
            certificate,
        }
    }

    /// A token that permits everything on the repository `test/image`.
    fn token(&self, life: Duration) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": "test-issuer", "sub": "user", "aud": "test", "jti": "1",
            "exp": now + life.as_secs() - LEEWAY, "nbf": now - LEEWAY, "iat": now,
            "access": [{"type": "repository", "name": "test/image", "actions": ["pull", "push"]}],
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, &signed).unwrap();
        let (input, output) = (super::text(&input), super::text(&output));
        run(
            "openssl",
            &["dgst", "-sha256", "-sign", &self.key, "-out", output, input],
        );
        let signature = std::fs::read(output).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
