//! What buffers of bytes have in common: how they grow, and when they give their memory back.

use crate::limits::{CLAIM_BYTES_MIN, CLAIM_FACTOR_MAX, KEEP_BYTES, SPARE_BYTES_MAX};

/// Puts an empty or used buffer among those that the worker has to spare, `most` at a time, if it is worth it.
pub(crate) fn give_back(mut buffer: Vec<u8>, spare: &mut Vec<Vec<u8>>, most: usize) {
    if (1..=SPARE_BYTES_MAX).contains(&buffer.capacity()) && spare.len() < most {
        buffer.clear();
        spare.push(buffer);
    }
}

/// Empties a buffer, and gives its memory back if that is more than an idle connection should hold.
#[inline]
pub(crate) fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// Makes room for `more` bytes and for what may follow them: see [`append`].
pub(crate) fn claim(buffer: &mut Vec<u8>, more: usize, wanted: usize) {
    let len = buffer.len() + more;
    let target = wanted.min((len * CLAIM_FACTOR_MAX).max(CLAIM_BYTES_MIN));
    if target > len {
        buffer.reserve_exact(target - buffer.len());
    } else {
        buffer.reserve(more);
    }
}

/// Appends to a buffer that waits for `wanted` bytes in all. It grows to that in a step or two, so that a large value is not copied again
/// and again, but claims no more than a multiple of what has come, so that a mere announcement takes no memory.
pub(crate) fn append(buffer: &mut Vec<u8>, bytes: &[u8], wanted: usize) {
    if buffer.len() + bytes.len() > buffer.capacity() {
        claim(buffer, bytes.len(), wanted);
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut buffer = Vec::new();
        append(&mut buffer, b"$536870912\r\n", 512 * 1024 * 1024);
        assert!(buffer.capacity() <= 4096);
    }

    #[test]
    fn a_large_value_is_moved_a_few_times_only_while_it_comes() {
        for wanted in [20 << 20, 0] {
            let (mut buffer, mut moves) = (Vec::new(), 0);
            while buffer.len() < 20 << 20 {
                let before = buffer.capacity();
                append(&mut buffer, &[b'x'; 64 * 1024], wanted);
                moves += u32::from(buffer.capacity() != before);
            }
            assert!(moves <= if wanted > 0 { 3 } else { 12 }, "{moves} where {wanted} bytes are announced");
        }
    }
}
