//! The arguments of one framed request.

/// Where one argument's bytes are in the buffer that its request was framed in, as offsets from the request's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgRange {
    /// Offset of the first byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

/// A request's arguments, the command's name first, borrowed from the bytes that they came in.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [ArgRange],
}

impl<'a> Args<'a> {
    /// Arguments at `ranges` of the request `bytes`. Every range must lie within `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8], ranges: &'a [ArgRange]) -> Self {
        debug_assert!(ranges.iter().all(|r| (r.start + r.len) as usize <= bytes.len()));
        Args { bytes, ranges }
    }

    /// How many there are, the command's name included: the `argc` of redis.
    #[inline]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none (an empty request, which redis ignores).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `index`, or `None` past the last.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let range = self.ranges.get(index)?;
        Some(&self.bytes[range.start as usize..(range.start + range.len) as usize])
    }

    /// All arguments in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.ranges.iter().map(move |range| &bytes[range.start as usize..(range.start + range.len) as usize])
    }

    /// Arguments `from..to` as they stand in the request, each with its `$` line and its line end: what a part of a split request is
    /// made of. `from` must be at least 1, and `from <= to <= len`.
    pub fn raw(&self, from: usize, to: usize) -> &'a [u8] {
        &self.bytes[self.end(from)..self.end(to)]
    }

    /// The command's name as it stands in the request, likewise.
    pub fn raw_name(&self) -> &'a [u8] {
        // Behind the `*` line.
        let start = self.bytes.iter().position(|byte| *byte == b'\r').map_or(0, |end| end + 2);
        &self.bytes[start..self.end(1)]
    }

    /// Offset behind the argument before `index`, where argument `index`'s `$` line starts.
    fn end(&self, index: usize) -> usize {
        let before = self.ranges[index - 1];
        (before.start + before.len) as usize + 2
    }

    /// The request as it came.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl std::ops::Index<usize> for Args<'_> {
    type Output = [u8];

    #[inline]
    fn index(&self, index: usize) -> &[u8] {
        self.get(index).expect("index within argc")
    }
}
