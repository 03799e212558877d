//! A crash at every step, and what the next controller finds.

use super::*;

/// What a controller knows to have happened before it crashed.
#[derive(Default)]
struct Known {
    run: u64,
    published: Option<Manifest>,
    /// It was being published.
    in_flight: Option<Manifest>,
}

/// Two runs, each with some checkpoints; ends at the first error.
async fn live(store: &ObjectStoreCheckpoints, known: &mut Known) -> Result<(), StoreError> {
    let mut epoch = 0;
    for run in 1..=2 {
        assert_eq!(
            store.open_run(&job()).await?,
            OpenRun::new(job(), RunId::new(run), known.published.clone()).unwrap()
        );
        known.run = run;
        for _ in 0..4 {
            epoch += 1;
            known.in_flight = Some(manifest(run, epoch));
            store.publish(&manifest(run, epoch)).await?;
            known.published = known.in_flight.take();
        }
    }
    Ok(())
}

#[tokio::test]
async fn i3_a_crash_at_any_step_loses_nothing_that_was_published() {
    for unheard in [false, true] {
        let mut ways_it_ended = [0; 2];
        for steps in 0.. {
            let memory = Arc::new(InMemory::new());
            let (probe, store) = probe::probed(&memory);
            if unheard {
                probe.crash_after_unheard(steps);
            } else {
                probe.crash_after(steps);
            }
            let mut known = Known::default();
            let result = live(&store.keeping(NonZeroUsize::new(2).unwrap()), &mut known).await;
            // Old entries that can't be deleted are no reason to fail, so the end may be reached
            // all the same.
            assert!(result.is_ok() || probe.has_crashed());

            let survivor = ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");
            let restored = survivor.open_run(&job()).await.unwrap();
            assert!(restored.run().get() > known.run, "a run is given once ({steps} steps)");
            let in_flight = known.in_flight.is_some() && restored.manifest() == known.in_flight.as_ref();
            assert!(in_flight || restored.manifest() == known.published.as_ref(), "{steps} steps: {restored:?}");
            ways_it_ended[usize::from(in_flight)] += 1;

            let next = manifest(restored.run().get(), 100);
            survivor.publish(&next).await.unwrap();
            assert_eq!(survivor.latest(&job()).await.unwrap(), Some(next));
            assert!(objects(&*memory).await.len() <= 3, "what the crash left over is gone ({steps} steps)");
            if !probe.has_crashed() {
                assert!(steps > 40, "{steps} steps explore too little");
                break;
            }
        }
        assert!(ways_it_ended.iter().all(|&times| times > 0), "both must happen: {ways_it_ended:?}");
    }
}
