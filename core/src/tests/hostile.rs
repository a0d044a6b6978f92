//! Frames that no client of good will sends. A node answers them or closes the connection, and serves everybody else.

use bytes::Bytes;
use kauri_protocol::{
    api::API_TABLE,
    header::request_frame,
    messages::{
        ApiVersionsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
        FindCoordinatorRequest, InitProducerIdRequest, MetadataRequest, RequestMessage,
        describe_configs::DescribeConfigsResource,
    },
    wire::Str,
};

use super::{client::*, world::World};
use crate::{ids::NodeId, io::Input, rng::Stream};

/// A request of every API in every version that has all its fields.
fn frames() -> Vec<Bytes> {
    fn all<R: RequestMessage>(request: &R, frames: &mut Vec<Bytes>) {
        for version in R::API.supported.min..=R::API.supported.max {
            // What an old version cannot say is not said in it.
            if let Ok(frame) = request_frame(request, version, 7, Some(Str::from("story"))) {
                frames.push(Bytes::from(frame.concat()).slice(4..));
            }
        }
    }
    let mut frames = Vec::new();
    let version = |text: &str| Str::from(text);
    all(&ApiVersionsRequest { client_software_name: version("a"), client_software_version: version("1") }, &mut frames);
    all(&create_request(&["made", "made", "", "b d"], 2, 1), &mut frames);
    all(&create_request(&["def"], -1, -1), &mut frames);
    all(&delete_request(), &mut frames);
    all(&DeleteTopicsRequest { topic_names: vec![version("made")], ..Default::default() }, &mut frames);
    all(&DescribeClusterRequest::default(), &mut frames);
    for (resource_type, name) in [(2, TOPIC), (2, "none"), (4, "1"), (4, ""), (9, "x")] {
        let resource = DescribeConfigsResource { resource_type, resource_name: version(name), ..Default::default() };
        all(&DescribeConfigsRequest { resources: vec![resource], ..Default::default() }, &mut frames);
    }
    all(&fetch_request(0, 1, 1), &mut frames);
    all(&fetch_request(-5, 0, 0), &mut frames);
    all(&fetch_request(1 << 40, 0, 0), &mut frames);
    all(&FindCoordinatorRequest { key: version("g"), ..Default::default() }, &mut frames);
    all(&FindCoordinatorRequest { coordinator_keys: vec![version("g")], ..Default::default() }, &mut frames);
    all(&InitProducerIdRequest::default(), &mut frames);
    all(&InitProducerIdRequest { transactional_id: Some(version("t")), ..Default::default() }, &mut frames);
    for timestamp in [-1, -2, -3, -4, -5, 0, 1_700_000_000_000] {
        all(&list_offsets_request(timestamp), &mut frames);
    }
    all(&MetadataRequest::default(), &mut frames);
    all(&MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, &mut frames);
    for acks in [-1, 0, 1, 2] {
        all(&produce_request(acks, batch(&["a", "b"])), &mut frames);
    }
    all(&produce_parts(-1, vec![(0, Bytes::new()), (9, batch(&["c"])), (-1, batch(&["d"]))]), &mut frames);
    frames
}

#[test]
fn every_api_in_every_version_ends_in_an_answer_or_a_closed_connection() {
    let mut world = World::formed(1);
    world.create_topic(1);
    let frames = frames();
    for api in API_TABLE {
        let key = (api.key as i16).to_be_bytes();
        let versions = frames.iter().filter(|frame| frame[..2] == key);
        assert!(versions.count() > usize::from(api.supported.max.abs_diff(api.supported.min)), "{}", api.name);
    }
    for frame in frames {
        let connection = world.connect(NodeId(1));
        world.send_frame(connection, frame);
        world.run_for(std::time::Duration::from_millis(300));
        let client = &world.clients[&connection];
        let silent = world.inspect(NodeId(1)).outstanding.requests == 0;
        assert!(client.closed || !client.received.is_empty() || silent);
        world.close(connection);
    }
    world.assert_nothing_waits();
}

#[test]
fn changed_cut_and_random_frames_harm_nobody() {
    let mut world = World::formed(1);
    let node = world.create_topic(1);
    let frames = frames();
    let mut random = Stream::new(11, NodeId(0), "hostile", 0);
    for round in 0..6000 {
        let mut frame = frames[random.below(frames.len() as u64) as usize].to_vec();
        match round % 4 {
            0 => frame.truncate(random.below(frame.len() as u64 + 1) as usize),
            1 => frame.iter_mut().skip(2).for_each(|byte| *byte ^= u8::from(random.below(12) == 0) << random.below(8)),
            2 => {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] = random.next_u64() as u8;
            }
            _ => {
                let at = random.below(frame.len() as u64) as usize;
                frame.splice(at..at, (0..random.below(9)).map(|_| [0, 1, 0x7f, 0x80, 0xff][round % 5]));
            }
        }
        let connection = world.connect(node);
        world.send_frame(connection, Bytes::from(frame));
        if round % 16 == 0 {
            world.settle();
        }
        world.input(node, Input::ClientClosed { connection });
        world.clients.remove(&connection);
    }
    world.run_for(A_WHILE);
    let connection = world.connect(node);
    assert_eq!(world.fetch(connection, 0).error_code, kauri_protocol::error::ErrorCode::None);
    world.assert_nothing_waits();
}
