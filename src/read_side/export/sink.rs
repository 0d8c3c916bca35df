//! Where an export's lines go: in chunks, gzipped if the caller likes, to a caller who sets the pace.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;

use super::Broken;

/// Bytes that are worth a chunk.
const CHUNK: usize = 32 << 10;

/// The caller has hung up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

pub struct Sink {
    sender: mpsc::Sender<Result<Bytes, Broken>>,
    out: Out,
}

enum Out {
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

impl Sink {
    pub fn new(sender: mpsc::Sender<Result<Bytes, Broken>>, gzip: bool) -> Self {
        let out = if gzip {
            Out::Gzip(Box::new(GzEncoder::new(Vec::with_capacity(CHUNK), Compression::fast())))
        } else {
            Out::Plain(Vec::with_capacity(CHUNK))
        };
        Self { sender, out }
    }

    /// Writing into memory cannot fail; an encoder that does leaves its end out, which every reader notices.
    pub fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        match &mut self.out {
            Out::Plain(bytes) => {
                bytes.extend_from_slice(line);
                bytes.push(b'\n');
                Ok(())
            }
            Out::Gzip(encoder) => encoder.write_all(line).and_then(|()| encoder.write_all(b"\n")),
        }
    }

    pub fn is_full(&self) -> bool {
        let bytes = match &self.out {
            Out::Plain(bytes) => bytes,
            Out::Gzip(encoder) => encoder.get_ref(),
        };
        bytes.len() >= CHUNK
    }

    /// Sends what is there, once the caller has taken what was sent before.
    pub async fn flush(&mut self) -> Result<(), Gone> {
        let bytes = match &mut self.out {
            Out::Plain(bytes) => std::mem::take(bytes),
            Out::Gzip(encoder) => std::mem::take(encoder.get_mut()),
        };
        if bytes.is_empty() {
            return if self.sender.is_closed() { Err(Gone) } else { Ok(()) };
        }
        self.sender.send(Ok(bytes.into())).await.map_err(|_| Gone)
    }

    pub async fn finish(self) -> Result<(), Gone> {
        let bytes = match self.out {
            Out::Plain(bytes) => bytes,
            Out::Gzip(encoder) => encoder.finish().map_err(|_| Gone)?,
        };
        if bytes.is_empty() { Ok(()) } else { self.sender.send(Ok(bytes.into())).await.map_err(|_| Gone) }
    }

    /// Ends the caller's answer without its end.
    pub async fn break_off(mut self, why: Broken) {
        if self.flush().await.is_ok() {
            drop(self.sender.send(Err(why)).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    async fn all(mut receiver: mpsc::Receiver<Result<Bytes, Broken>>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        all
    }

    #[tokio::test]
    async fn both_forms_hold_the_same_lines() {
        for gzip in [false, true] {
            let (sender, receiver) = mpsc::channel(4);
            let mut sink = Sink::new(sender, gzip);
            let writing = async {
                for n in 0..5000 {
                    sink.line(format!("line {n}").as_bytes()).unwrap();
                    if sink.is_full() {
                        sink.flush().await.unwrap();
                    }
                }
                sink.finish().await.unwrap();
            };
            let ((), bytes) = tokio::join!(writing, all(receiver));
            let mut text = String::new();
            if gzip {
                flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
            } else {
                text = String::from_utf8(bytes).unwrap();
            }
            assert_eq!(text.lines().count(), 5000);
            assert!(text.ends_with("line 4999\n"));
        }
    }

    #[tokio::test]
    async fn a_caller_who_has_gone_is_noticed() {
        let (sender, receiver) = mpsc::channel(1);
        let mut sink = Sink::new(sender, false);
        sink.line(b"x").unwrap();
        drop(receiver);
        assert_eq!(sink.flush().await, Err(Gone));
        assert_eq!(sink.flush().await, Err(Gone));
    }
}
