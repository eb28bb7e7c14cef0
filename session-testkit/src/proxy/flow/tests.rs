use super::{
    super::{Connections, active::Active, toxic::Toxic},
    *,
};

const MS: Duration = Duration::from_millis(1);

/// A flow to the client with some toxics, and their common clock.
struct World {
    flow: Flow,
    toxics: Toxics,
    active: Vec<Active>,
    now: Instant,
}

impl World {
    fn new(toxics: impl IntoIterator<Item = Toxic>) -> Self {
        let now = Instant::now();
        let mut world = Self {
            flow: Flow::new(0, Direction::ToClient, now),
            toxics: Toxics::default(),
            active: Vec::new(),
            now,
        };
        for toxic in toxics {
            let active = Active::new(toxic, 1);
            world.toxics.add(active.clone(), &Connections::default());
            world.active.push(active);
        }
        world.now = Instant::now();
        world.flow.update(&world.toxics, world.now);
        world
    }

    fn push(mut self, text: &str) -> Self {
        self.flow.push(text.as_bytes(), self.now);
        self
    }

    fn heal(&mut self) {
        for active in &self.active {
            self.toxics.remove(active.id);
        }
        self.flow.update(&self.toxics, self.now);
    }

    fn touched(&self) -> (u64, u64) {
        let report = self.active[0].touched.report();
        (report.connections, report.bytes)
    }

    /// Runs until the flow waits for input. Returns the writes with their times, and the last step.
    fn run(&mut self) -> (Vec<(Duration, String)>, Step) {
        let begin = self.now;
        let mut written = Vec::new();
        loop {
            match self.flow.next(self.now) {
                Step::Write(count) => {
                    let bytes = self.flow.front()[..count].to_vec();
                    self.flow.wrote(count, self.now);
                    written.push((self.now - begin, String::from_utf8(bytes).unwrap()));
                }
                Step::WaitUntil(until) => self.now = until,
                end => return (written, end),
            }
        }
    }

    fn pieces(&mut self) -> Vec<String> {
        self.run().0.into_iter().map(|(_, text)| text).collect()
    }
}

#[test]
fn flow_without_toxics_passes_bytes_at_once() {
    let mut world = World::new([]).push("ab").push("c");
    assert_eq!(world.pieces(), ["ab", "c"]);
    world.flow.finish(world.now);
    assert_eq!(world.flow.next(world.now), Step::Finish);
}

#[test]
fn latencies_add_up_and_heal_for_bytes_on_their_way() {
    let two = [50, 5].map(|ms| Toxic::latency(ms * MS, Duration::ZERO));
    let mut world = World::new(two.clone()).push("a").push("b");
    let (written, _) = world.run();
    assert_eq!(written, [(55 * MS, "a".into()), (55 * MS, "b".into())]);
    assert_eq!(world.touched(), (1, 2));

    let mut world = World::new(two).push("a");
    assert!(matches!(world.flow.next(world.now), Step::WaitUntil(_)));
    world.heal();
    assert_eq!(world.flow.next(world.now), Step::Write(1));
}

#[test]
fn toxic_of_the_other_direction_has_no_effect() {
    let mut world = World::new([Toxic::hold().to_server()]).push("a");
    assert_eq!(world.pieces(), ["a"]);
    assert_eq!(world.touched(), (0, 0));
}

#[test]
fn slicer_cuts_within_its_variation_with_gaps() {
    let mut world = World::new([Toxic::slicer(4, 1, 10 * MS)]).push("abcdefghijklmnop");
    let (written, _) = world.run();
    let (last, others) = written.split_last().unwrap();
    assert!(others.len() >= 3 && last.1.len() <= 5, "{written:?}");
    for (n, (at, piece)) in others.iter().enumerate() {
        assert!((3..=5).contains(&piece.len()), "{written:?}");
        assert_eq!(*at, 10 * MS * u32::try_from(n).unwrap());
    }
    assert_eq!(world.touched(), (1, 16));
}

#[test]
fn limit_data_closes_after_its_last_byte() {
    let mut world = World::new([Toxic::limit_data(3)]).push("ab").push("cd");
    let (written, end) = world.run();
    assert_eq!(written.len(), 2);
    assert_eq!(written[1].1, "c");
    assert_eq!(end, Step::End(End::Close));
    let mut nothing = World::new([Toxic::limit_data(0)]);
    assert_eq!(nothing.run().1, Step::Wait);
    nothing = nothing.push("a");
    assert_eq!(nothing.run(), (vec![], Step::End(End::Close)));
}

#[test]
fn reset_peer_resets_after_its_time() {
    let mut world = World::new([Toxic::reset_peer(30 * MS)]).push("a");
    let (written, end) = world.run();
    assert_eq!((written.len(), end), (1, Step::End(End::Reset)));
}

#[test]
fn hold_delivers_at_the_end() {
    let mut world = World::new([Toxic::hold()]).push("ab").push("c");
    assert_eq!(world.run(), (vec![], Step::Wait));
    assert_eq!(world.touched(), (1, 3));
    world.heal();
    assert_eq!(world.pieces(), ["ab", "c"]);
}

#[test]
fn hold_from_passes_the_bytes_before_the_pattern() {
    let mut world = World::new([Toxic::hold_from("SET k")]).push("GET k SE");
    assert_eq!(world.pieces(), ["GET k SE"]);
    assert_eq!(world.touched(), (0, 0));
    // The pattern arrives in two parts.
    world = world.push("T k v").push("GET k");
    assert!(world.pieces().is_empty());
    assert_eq!(world.touched(), (1, 10));
    world.heal();
    assert_eq!(world.pieces(), ["T k v", "GET k"]);

    let mut whole = World::new([Toxic::hold_from("SET k")]).push("GET k SET k v");
    assert_eq!(whole.pieces(), ["GET k "]);
    whole.heal();
    assert_eq!(whole.pieces(), ["SET k v"]);
}

#[test]
fn hold_from_finds_its_pattern_in_slices() {
    let toxics = [Toxic::hold_from("cde"), Toxic::slicer(1, 0, Duration::ZERO)];
    let mut world = World::new(toxics).push("abcdef");
    assert_eq!(world.pieces(), ["a", "b"]);
}

/// Returns a flow to the server, in which commands are lost.
fn requests(toxic: Toxic, number: u64) -> World {
    let mut world = World::new([toxic]);
    world.flow = Flow::new(number, Direction::ToServer, world.now);
    world.flow.update(&world.toxics, world.now);
    world
}

#[test]
fn lost_command_closes_the_connection_where_it_begins() {
    let mut world = requests(Toxic::lose("UNLINK"), 0).push("GET a UNLINK b GET c");
    let (written, end) = world.run();
    assert_eq!(written, [(Duration::ZERO, "GET a ".to_owned())]);
    assert_eq!(end, Step::End(End::Close));
    assert_eq!(world.touched(), (1, 0));

    let mut halves = requests(Toxic::lose("UNLINK"), 0).push("GET a UNL");
    assert_eq!(halves.pieces(), ["GET a UNL"]);
    assert_eq!(halves.push("INK b").run(), (vec![], Step::End(End::Close)));
}

#[test]
fn lost_reply_delivers_the_command_and_no_reply() {
    let mut world = requests(Toxic::lose_reply("UNLINK"), 0).push("GET a UNLINK b");
    let mut answers = Flow::new(0, Direction::ToClient, world.now);
    answers.update(&world.toxics, world.now);
    answers.push(b"before", world.now);
    assert_eq!(answers.next(world.now), Step::Write(6));
    answers.wrote(6, world.now);

    let begin = world.now;
    let (written, end) = world.run();
    let text: String = written.into_iter().map(|(_, text)| text).collect();
    assert_eq!(text, "GET a UNLINK b");
    assert_eq!(end, Step::End(End::Close));
    assert_eq!(world.now, begin + 20 * MS);
    answers.push(b"the reply", begin);
    assert_eq!(answers.next(begin), Step::WaitUntil(begin + 20 * MS));
    assert_eq!(answers.next(begin + 20 * MS), Step::End(End::Close));
}

#[test]
fn seed_decides_which_occurrences_are_lost() {
    let text = "UNLINK a ".repeat(200);
    let passed = |seed, number| {
        let toxic = Toxic::lose("UNLINK").chance(0.05, seed);
        let mut world = requests(toxic, number).push(&text);
        let (written, end) = world.run();
        assert_eq!(end, Step::End(End::Close), "no command of 200 was lost at a chance of 1 in 20");
        written.iter().map(|(_, text)| text.len()).sum::<usize>() / 9
    };
    assert_eq!(passed(7, 1), passed(7, 1));
    let some: std::collections::BTreeSet<_> = (0..50).map(|seed| passed(seed, 1)).collect();
    assert!(some.len() > 10, "{some:?}");
    let mean: usize = (0..50).map(|seed| passed(seed, 1)).sum::<usize>() / 50;
    assert!((8..40).contains(&mean), "{mean}");

    let mut never = requests(Toxic::lose("UNLINK").chance(0.0, 7), 0).push(&text);
    assert_eq!(never.pieces().concat(), text);
    // Also if the pattern arrives in two parts.
    let mut never = requests(Toxic::lose("UNLINK").chance(0.0, 7), 0).push("UNL");
    assert_eq!(never.pieces(), ["UNL"]);
    assert_eq!(never.push("INK a UNLINK").pieces().concat(), "INK a UNLINK");
}

#[test]
fn idle_connection_is_closed_and_active_one_is_not() {
    let mut world = World::new([Toxic::idle(100 * MS)]).push("a");
    let begin = world.now;
    let (written, end) = world.run();
    assert_eq!(written, [(Duration::ZERO, "a".into())]);
    assert_eq!(end, Step::End(End::Close));
    assert_eq!((world.now - begin, world.touched()), (100 * MS, (1, 0)));

    let mut world = World::new([Toxic::idle(100 * MS)]).push("a");
    let _a = world.flow.next(world.now);
    world.flow.wrote(1, world.now);
    // The other direction has its own flow.
    world.active[0].touched.came_by(0, world.now + 60 * MS);
    let until = Step::WaitUntil(world.now + 160 * MS);
    assert_eq!(world.flow.next(world.now + 100 * MS), until);
}

#[test]
fn idle_connection_is_forgotten_also_after_healing() {
    let after = Duration::from_secs(1);
    let mut world = World::new([Toxic::forget_idle(after)]).push("a");
    let begin = world.now;
    assert_eq!(world.run(), (vec![(Duration::ZERO, "a".into())], Step::Wait));
    assert_eq!((world.now - begin, world.touched()), (after, (1, 0)));
    let mut world = world.push("b");
    assert_eq!(world.run(), (Vec::new(), Step::Wait));
    world.heal();
    assert_eq!(world.run(), (Vec::new(), Step::Wait));
    // The client notices nothing, and closes the connection at some time.
    world.flow.finish(world.now);
    assert_eq!(world.run().1, Step::End(End::Close));
}

#[test]
fn count_finds_split_patterns_and_changes_nothing() {
    let toxic = || Toxic::count("\0C57014\0");
    let mut world = World::new([toxic()]).push("E\0C57014\0\0C570").push("14\0.\0C57014").push("!");
    let passed = world.pieces().concat();
    assert_eq!(passed, "E\0C57014\0\0C57014\0.\0C57014!");
    let report = world.active[0].touched.report();
    assert_eq!((report.occurrences, report.connections), (2, 0));

    // It is counted once, and before the receiver can read it.
    let mut world = World::new([toxic()]).push("\0C57014\0");
    for _ in 0..2 {
        assert_eq!(world.flow.next(world.now), Step::Write(8));
        assert_eq!(world.active[0].touched.report().occurrences, 1);
    }
}
