//! Writes slices to a socket, as they are.
//!
//! Invariant: no byte is copied between the core's slices and the system call, and the order of slices is the order
//! of bytes on the wire.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc::UnboundedReceiver,
    time::timeout,
};

/// What one system call writes at most, in slices. An answer to a fetch has two for each partition, and each connection
/// keeps room for so many.
const SLICES_MAX: usize = 128;

/// Writes what arrives in `sends` until its sender is gone and everything was written, and calls `written` with the
/// number of bytes each time the socket took some. A socket that takes nothing for `patience` is given up.
pub(crate) async fn write_all(
    socket: &mut (impl AsyncWrite + Unpin),
    sends: &mut UnboundedReceiver<Vec<Bytes>>,
    patience: Duration,
    mut written: impl FnMut(usize),
) -> io::Result<()> {
    let mut queue: VecDeque<Bytes> = VecDeque::new();
    loop {
        if queue.is_empty() {
            let Some(slices) = sends.recv().await else { return Ok(()) };
            enqueue(&mut queue, slices);
        }
        while queue.len() < SLICES_MAX
            && let Ok(slices) = sends.try_recv()
        {
            enqueue(&mut queue, slices);
        }
        if queue.is_empty() {
            continue;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slot, bytes) in slices.iter_mut().zip(&queue) {
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        let bytes = match timeout(patience, socket.write_vectored(&slices[..count])).await {
            Ok(result) => result?,
            Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
        };
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        consume(&mut queue, bytes);
        written(bytes);
    }
}

fn enqueue(queue: &mut VecDeque<Bytes>, slices: Vec<Bytes>) {
    queue.extend(slices.into_iter().filter(|slice| !slice.is_empty()));
}

fn consume(queue: &mut VecDeque<Bytes>, mut bytes: usize) {
    while bytes > 0 {
        let front = queue.front_mut().expect("a socket takes no more than it was offered");
        if front.len() > bytes {
            front.advance(bytes);
            return;
        }
        bytes -= front.len();
        queue.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, sync::mpsc};

    #[tokio::test]
    async fn bytes_arrive_in_order_through_a_socket_that_takes_a_few_at_a_time() {
        let (mut ours, mut theirs) = tokio::io::duplex(7);
        let (sender, mut sends) = mpsc::unbounded_channel();
        let mut expected = Vec::new();
        for number in 0..300u32 {
            let slice = Bytes::from(number.to_string());
            expected.extend_from_slice(&slice);
            sender.send(vec![slice.slice(..1), Bytes::new(), slice.slice(1..)]).unwrap();
        }
        drop(sender);
        let mut reported = 0;
        let mut received = Vec::new();
        let writer = async {
            write_all(&mut ours, &mut sends, Duration::from_secs(10), |bytes| reported += bytes).await.unwrap();
            drop(ours);
        };
        let (_, read) = tokio::join!(writer, theirs.read_to_end(&mut received));
        read.unwrap();
        assert_eq!(received, expected);
        assert_eq!(reported, expected.len(), "every byte the socket took was reported");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_is_given_up() {
        let (mut ours, _theirs) = tokio::io::duplex(4);
        let (sender, mut sends) = mpsc::unbounded_channel();
        sender.send(vec![Bytes::from_static(b"more than fits")]).unwrap();
        let error = write_all(&mut ours, &mut sends, Duration::from_secs(60), |_| ()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
