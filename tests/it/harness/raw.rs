//! Half requests, slow requests and other things that no HTTP client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(address: &str) -> std::io::Result<Self> {
        TcpStream::connect(address).await.map(Self)
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref()).await
    }

    /// No more will be sent; the answer may still come.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        self.0.shutdown().await
    }

    /// Everything that comes until the other side closes.
    pub async fn read_to_end(&mut self) -> std::io::Result<String> {
        let mut bytes = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await??;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
