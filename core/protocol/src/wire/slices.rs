//! Record bytes that lie in several places.

use bytes::Bytes;

use super::{Context, DecodeError, EncodeError, Reader, Wire, Writer};
use crate::schema::Type;

/// The records of one fetched partition: slices that follow each other on the wire but not in memory, such as a patched
/// batch header and the batch body it belongs to. Two values are equal if their bytes are, however they are sliced.
#[derive(Debug, Clone, Default)]
pub struct Records {
    slices: Vec<Bytes>,
}

impl Records {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.slices.push(slice);
        }
    }

    #[must_use]
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// All bytes as one slice; copies only if there is more than one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.slices.as_slice() {
            [] => Bytes::new(),
            [slice] => slice.clone(),
            slices => Bytes::from(slices.concat()),
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        let mut records = Self::new();
        records.push(bytes);
        records
    }
}

impl FromIterator<Bytes> for Records {
    fn from_iter<I: IntoIterator<Item = Bytes>>(slices: I) -> Self {
        let mut records = Self::new();
        for slice in slices {
            records.push(slice);
        }
        records
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.slices.iter().flatten().eq(other.slices.iter().flatten())
    }
}

impl Eq for Records {}

impl Wire for Option<Records> {
    const TYPE: Type = Type::Bytes { nullable: true };

    fn size_min(context: Context) -> usize {
        Option::<Bytes>::size_min(context)
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        let bytes = Option::<Bytes>::decode(reader, context)?;
        if bytes.as_ref().is_some_and(|bytes| !bytes.is_empty()) {
            reader.draw(size_of::<Bytes>())?;
        }
        Ok(bytes.map(|bytes| Records { slices: if bytes.is_empty() { Vec::new() } else { vec![bytes] } }))
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        writer.put_length(self.as_ref().map(Records::len), context.flexible)?;
        for slice in self.iter().flat_map(Records::slices) {
            writer.put_segment(slice);
        }
        Ok(())
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }
}
