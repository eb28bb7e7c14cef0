//! The slots of a cluster: the slot of a key, and the map from slots to masters.

use std::collections::BTreeMap;

use crc::{CRC_16_XMODEM, Crc};
use redis::Value;

use super::connect::Address;

/// The number of slots of every cluster.
pub(super) const SLOTS: u16 = 16_384;

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// Returns the slot of a key. Our keys have no braces, which would be a hash tag.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    CRC.checksum(key) % SLOTS
}

/// The masters of all slots, as one node reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// In ascending order.
    ranges: Vec<SlotRange>,
}

/// Slots with one master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
}

impl SlotMap {
    /// Parses a reply to CLUSTER SLOTS of the node at `asked`. Returns `None` if it has another
    /// form. A range whose master has no known address is left out.
    pub(super) fn parse(reply: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(entries) = reply else { return None };
        let mut ranges = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::Array(entry) = entry else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &entry[..] else {
                return None;
            };
            let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
            if last >= SLOTS || first > last {
                return None;
            }
            if let Some(master) = address(master, asked) {
                ranges.push(SlotRange { first, last, master });
            }
        }
        ranges.sort_by_key(|range| range.first);
        Some(Self { ranges })
    }

    /// Returns the master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let has = |range: &&SlotRange| (range.first..=range.last).contains(&slot);
        self.ranges.iter().find(has).map(|range| &range.master)
    }

    pub(super) fn ranges(&self) -> &[SlotRange] {
        &self.ranges
    }

    /// Returns every master, each once.
    pub(super) fn masters(&self) -> Vec<&Address> {
        let mut masters: Vec<&Address> = Vec::new();
        for SlotRange { master, .. } in &self.ranges {
            if !masters.contains(&master) {
                masters.push(master);
            }
        }
        masters
    }

    /// Returns the map that most nodes report. Of several, the first.
    pub(super) fn most_reported(maps: &[Self]) -> Option<&Self> {
        let votes = |map: &Self| maps.iter().filter(|other| *other == map).count();
        let votes: BTreeMap<_, _> =
            maps.iter().enumerate().rev().map(|(at, map)| (votes(map), at)).collect();
        votes.last_key_value().map(|(_, at)| &maps[*at])
    }
}

/// Returns the address of a node. A node that does not know its own host leaves it out, and so does
/// one that was told to (`cluster-preferred-endpoint-type unknown-endpoint`): it is then that of
/// the node that was asked. `?` stands for a missing host name, beside which the IP address is
/// reported.
fn address(node: &[Value], asked: &Address) -> Option<Address> {
    let (host, port) = match node {
        [host, Value::Int(port), ..] => (host, u16::try_from(*port).ok()?),
        _ => return None,
    };
    let Address::Tcp { host: asked, .. } = asked else { return None };
    let host = match host {
        Value::Nil => asked.clone(),
        host => match text(host)? {
            "" => asked.clone(),
            "?" => ip(node.get(3)?)?.to_owned(),
            host => host.to_owned(),
        },
    };
    Some(Address::Tcp { host, port, ip: None })
}

/// Returns the IP address of the metadata of a node: pairs of a name and a value.
fn ip(metadata: &Value) -> Option<&str> {
    match metadata {
        Value::Array(pairs) => {
            let pair = pairs.chunks_exact(2).find(|pair| text(&pair[0]) == Some("ip"))?;
            text(&pair[1])
        }
        Value::Map(pairs) => {
            let (_, ip) = pairs.iter().find(|(name, _)| text(name) == Some("ip"))?;
            text(ip)
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64, metadata: Value) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), bulk("id"), metadata]);
        let replica = Value::Array(vec![bulk("replica"), Value::Int(1), bulk("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
    }

    fn none() -> Value {
        Value::Array(Vec::new())
    }

    fn asked() -> Address {
        Address::tcp("asked:7000")
    }

    // The first value is the check value of CRC-16/XMODEM, which Redis documents.
    #[test]
    fn slot_of_a_key_is_that_of_redis() {
        assert_eq!(CRC.checksum(b"123456789"), 0x31c3);
        assert_eq!([slot_of(b"foo"), slot_of(b"bar"), slot_of(b"")], [12_182, 5_061, 0]);
    }

    #[test]
    fn reply_is_parsed_with_each_form_of_a_host() {
        let reply = Value::Array(vec![
            range(5_461, 10_922, bulk("b.internal"), 7001, none()),
            range(0, 5_460, bulk("10.0.0.1"), 7000, none()),
            range(10_923, 16_000, Value::Nil, 7002, none()),
            range(16_001, 16_001, bulk(""), 7003, none()),
            range(16_002, 16_002, bulk("?"), 7004, Value::Array(vec![bulk("ip"), bulk("::1")])),
            range(16_003, 16_003, bulk("?"), 7005, Value::Map(vec![(bulk("ip"), bulk("::2"))])),
            range(16_004, 16_004, bulk("?"), 7006, none()),
        ]);
        let map = SlotMap::parse(&reply, &asked()).unwrap();
        for (slot, owner) in [
            (0, Some("10.0.0.1:7000")),
            (5_460, Some("10.0.0.1:7000")),
            (5_461, Some("b.internal:7001")),
            (16_000, Some("asked:7002")),
            (16_001, Some("asked:7003")),
            (16_002, Some("[::1]:7004")),
            (16_003, Some("[::2]:7005")),
            (16_004, None),
            (16_383, None),
        ] {
            let found = map.owner(slot).map(ToString::to_string);
            assert_eq!(found.as_deref(), owner, "{slot}");
        }
        assert_eq!(map.masters().len(), 6);
    }

    #[test]
    fn reply_of_another_form_is_no_map() {
        for reply in [
            Value::Okay,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16_384, bulk("a"), 1, none())]),
            Value::Array(vec![range(2, 1, bulk("a"), 1, none())]),
            Value::Array(vec![range(-1, 1, bulk("a"), 1, none())]),
        ] {
            assert_eq!(SlotMap::parse(&reply, &asked()), None, "{reply:?}");
        }
    }

    #[test]
    fn map_of_most_nodes_counts() {
        let map = |host: &str| {
            let reply = Value::Array(vec![range(0, 16_383, bulk(host), 1, none())]);
            SlotMap::parse(&reply, &asked()).unwrap()
        };
        let (old, new) = (map("old"), map("new"));
        for (maps, most) in [
            (vec![], None),
            (vec![old.clone()], Some(&old)),
            (vec![old.clone(), new.clone(), new.clone()], Some(&new)),
            (vec![new.clone(), old.clone()], Some(&new)),
        ] {
            assert_eq!(SlotMap::most_reported(&maps), most, "{maps:?}");
        }
    }
}
