//! What analyses ask: a real Prometheus with something to scrape, and servers that note who asked
//! them what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upgrade_sandbox::{ControlPlane, Process, eventually, product};

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

type Answer = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

/// An HTTP server on a port of its own; it ends when it is dropped.
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(
        answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, answer): (_, Arc<Answer>) = (seen.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noted.clone(), answer.clone()));
            }
        });
        Ok(Self { address, seen, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Asked>>>, answer: Arc<Answer>) {
    let Ok(asked) = read(&mut stream).await else { return };
    let (status, body) = answer(&asked);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // Who does not listen any more is no failure of ours.
    let _ = stream.write_all((head + &body).as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut TcpStream) -> Result<Asked> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let line = lines.next().unwrap_or_default().to_owned();
            let headers: BTreeMap<String, String> = lines
                .filter_map(|l| l.split_once(':'))
                .map(|(k, v)| (k.trim().to_lowercase(), v.trim().to_owned()))
                .collect();
            let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return Ok(Asked { line, headers, body: body.to_owned() });
            }
        }
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            bail!("it ended in the middle");
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
}

/// Something to scrape: series by name, as the test sets them.
pub struct Exporter {
    server: Server,
    series: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Exporter {
    pub async fn start() -> Result<Self> {
        let series: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let shown = series.clone();
        let server = Server::start(move |_| {
            let series = shown.lock().unwrap_or_else(PoisonError::into_inner);
            (200, series.iter().fold(String::new(), |text, (k, v)| format!("{text}{k} {v}\n")))
        })
        .await?;
        Ok(Self { server, series })
    }

    /// Sets a series: `shop_success_rate{shop="a"}` to `0.99`.
    pub fn set(&self, series: &str, value: &str) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(series.to_owned(), value.to_owned());
    }
}

/// A real Prometheus that scrapes an [`Exporter`] several times a second.
pub struct Prometheus {
    pub process: Process,
    pub exporter: Exporter,
    pub address: String,
    _data: tempfile::TempDir,
}

impl Prometheus {
    /// None, with a word about it, where the machine has no Prometheus.
    pub async fn start(cluster: &ControlPlane) -> Result<Option<Self>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|dir| dir.join("prometheus").is_file());
        if !found {
            println!("skipped: there is no prometheus; Debian's package of that name has it");
            return Ok(None);
        }
        let exporter = Exporter::start().await?;
        for _ in 0..3 {
            let data = tempfile::tempdir()?;
            let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let config = format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n  \
                 - {{job_name: shop, static_configs: [{{targets: ['{}']}}]}}\n",
                exporter.server.address
            );
            let file = data.path().join("prometheus.yml");
            std::fs::write(&file, config)?;
            let argv = [
                "prometheus".to_owned(),
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", data.path().join("data").display()),
                format!("--web.listen-address={free}"),
            ];
            let name = format!("prometheus-{}", free.port());
            let process = cluster.spawn(&name, argv, [("GOMAXPROCS", "1")]).await?;
            let address = free.to_string();
            let ready = eventually("Prometheus", Duration::from_secs(20), || {
                product::get(&address, "/-/ready")
            });
            // Another process may have taken the port meanwhile.
            if ready.await.is_ok() {
                return Ok(Some(Self { process, exporter, address, _data: data }));
            }
            process.kill()?;
        }
        bail!("Prometheus never became ready")
    }

    /// Sets a series and waits until a query finds it at that value.
    pub async fn shows(&self, series: &str, value: &str) -> Result<()> {
        self.exporter.set(series, value);
        eventually("the sample", Duration::from_secs(20), || async {
            let query: String = series
                .bytes()
                .map(|b| {
                    if b.is_ascii_alphanumeric() {
                        char::from(b).to_string()
                    } else {
                        format!("%{b:02X}")
                    }
                })
                .collect();
            let path = format!("/api/v1/query?query={query}");
            let text = product::get(&self.address, &path).await?;
            let answer: Value = serde_json::from_str(&text).context(text.clone())?;
            let found = &answer["data"]["result"][0]["value"][1];
            anyhow::ensure!(found == value, "{answer}");
            Ok(())
        })
        .await
    }
}
