//! Random valid messages, written from the schema and not with the codec, so that the codec is checked against
//! something else.

use kauri_protocol::schema::{Struct, Type};

/// SplitMix64: small, seeded, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}

/// Writes a random value of `structure` as it looks on the wire in `version`.
pub(crate) fn write_struct(out: &mut Vec<u8>, structure: &Struct, version: i16, flexible: bool, random: &mut Random) {
    let mut tagged = Vec::new();
    for field in structure.fields {
        if !field.presence.versions.contains(version) {
            continue;
        }
        let nulls = field.presence.nullable.contains(version);
        match field.presence.tag {
            None => write_value(out, &field.type_, nulls, version, flexible, random),
            Some(tag) if random.once_in(2) => {
                let mut value = Vec::new();
                write_value(&mut value, &field.type_, nulls, version, flexible, random);
                tagged.push((tag, value));
            }
            Some(_) => {}
        }
    }
    if flexible {
        if random.once_in(8) {
            // A tag from the future.
            tagged.push((1000 + random.below(100_000) as u32, random.bytes(3)));
        }
        put_varint(out, tagged.len() as u32);
        for (tag, value) in tagged {
            put_varint(out, tag);
            put_varint(out, value.len() as u32);
            out.extend(value);
        }
    }
}

fn write_value(out: &mut Vec<u8>, type_: &Type, nulls: bool, version: i16, flexible: bool, random: &mut Random) {
    let null = |nullable: bool, random: &mut Random| nullable && nulls && random.once_in(4);
    match *type_ {
        Type::Bool => out.push(random.below(2) as u8),
        Type::Int8 => write_number(out, 1, random),
        Type::Int16 | Type::Uint16 => write_number(out, 2, random),
        Type::Int32 | Type::Uint32 => write_number(out, 4, random),
        Type::Int64 | Type::Float64 => write_number(out, 8, random),
        Type::Uuid => out.extend(random.bytes(16)),
        Type::String { nullable } => {
            if null(nullable, random) {
                return if flexible {
                    out.push(0);
                } else {
                    out.extend([0xff; 2]);
                };
            }
            let text = ["", "a", "topic-1", "größe", "木", "🌲🌲", "with space"][random.below(7)];
            match flexible {
                true => put_varint(out, text.len() as u32 + 1),
                false => out.extend((text.len() as u16).to_be_bytes()),
            }
            out.extend(text.as_bytes());
        }
        Type::Bytes { nullable } => {
            if null(nullable, random) {
                return put_null(out, flexible);
            }
            let count = if random.once_in(4) { 5000 } else { random.below(200) };
            put_length(out, count, flexible);
            out.extend(random.bytes(count));
        }
        Type::Array { element, nullable } => {
            if null(nullable, random) {
                return put_null(out, flexible);
            }
            let count = random.below(4);
            put_length(out, count, flexible);
            for _ in 0..count {
                write_value(out, element, false, version, flexible, random);
            }
        }
        Type::Struct(structure) => write_struct(out, structure, version, flexible, random),
    }
}

fn write_number(out: &mut Vec<u8>, bytes: usize, random: &mut Random) {
    match random.below(4) {
        0 => out.extend(std::iter::repeat_n(0xff, bytes)),
        1 => out.extend(std::iter::repeat_n(0, bytes)),
        _ => out.extend(random.bytes(bytes)),
    }
}

fn put_null(out: &mut Vec<u8>, flexible: bool) {
    if flexible {
        out.push(0);
    } else {
        out.extend([0xff; 4]);
    }
}

fn put_length(out: &mut Vec<u8>, length: usize, flexible: bool) {
    match flexible {
        true => put_varint(out, length as u32 + 1),
        false => out.extend((length as u32).to_be_bytes()),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
