//! A receiver of notifications, on a port of its own.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upgrade_sandbox::scenario::Shop;

/// A receiver: what it was told, and a Secret that names it.
pub struct Receiver {
    told: Arc<Mutex<Vec<Value>>>,
    /// Name of the Secret with its address.
    pub secret: String,
}

impl Receiver {
    /// Refuses the first requests, and takes the others.
    pub async fn start(shop: &Shop, name: &str, refuse: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        tokio::spawn(async move {
            let mut asked = 0;
            while let Ok((stream, _)) = listener.accept().await {
                asked += 1;
                if let Ok(body) = answer(stream, asked > refuse).await
                    && asked > refuse
                {
                    heard.lock().unwrap().push(body);
                }
            }
        });
        let secret = format!("{}-{name}", shop.namespace);
        let object: Secret = serde_json::from_value(json!({
            "metadata": {"name": secret}, "stringData": {"url": format!("http://{address}/hook/s3cret")},
        }))?;
        let secrets: Api<Secret> = Api::namespaced(shop.client.clone(), "kubectl-upgrade-system");
        secrets.create(&PostParams::default(), &object).await?;
        Ok(Self { told, secret })
    }

    /// The bodies that it took.
    pub fn heard(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}

/// Reads one request and answers it; its body.
async fn answer(mut stream: TcpStream, take: bool) -> Result<Value> {
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    let body = loop {
        let n = stream.read(&mut part).await?;
        anyhow::ensure!(n > 0, "closed");
        text.extend_from_slice(&part[..n]);
        let Some(head) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        if let Ok(body) = serde_json::from_slice::<Value>(&text[head + 4..]) {
            break body;
        }
    };
    let status = if take { "200 OK" } else { "503 Service Unavailable" };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    Ok(body)
}
