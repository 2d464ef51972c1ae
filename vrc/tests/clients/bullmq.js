// bullmq.js PORT PROTOCOL PASSWORD: a queue of jobs, by BullMQ: long scripts over many keys, streams and sorted sets that are waited
// for. All keys of its queues have one hash tag, as it asks for where there is a cluster.

const { library, equal, main, until, port, password } = require('./check');
const { FlowProducer, Queue, QueueEvents, Worker } = library('bullmq');

// It warns of servers that evict keys, as caches do.
console.warn = () => {};

const options = { connection: { host: '127.0.0.1', port, password, maxRetriesPerRequest: null }, prefix: '{bull}' };

main(async () => {
    const queue = new Queue('jobs', options);
    const events = new QueueEvents('jobs', options);
    await events.waitUntilReady();
    let failures = 0;
    const work = async (job) => {
        if (job.name === 'fails once' && failures++ === 0) throw new Error('as it should');
        await job.updateProgress(50);
        return job.data * 2;
    };
    const worker = new Worker('jobs', work, { ...options, concurrency: 10 });
    const result = (job) => job.waitUntilFinished(events);

    const numbers = Array.from({ length: 200 }, (_, number) => number);
    const jobs = await queue.addBulk(numbers.map((data) => ({ name: 'double', data })));
    // Each asks for its result at once, and one listener would be enough.
    events.setMaxListeners(0);
    queue.setMaxListeners(0);
    equal(await Promise.all(jobs.map(result)), numbers.map((number) => number * 2));
    equal(await result(await queue.add('later', 4, { delay: 100 })), 8);
    equal(await result(await queue.add('fails once', 5, { attempts: 3, backoff: 50, priority: 2 })), 10);
    equal(failures, 2);

    await queue.pause();
    const waiting = await queue.add('double', 6);
    equal((await queue.getJobCounts('paused', 'completed', 'failed')), { paused: 1, completed: 202, failed: 0 });
    await queue.resume();
    equal(await result(waiting), 12);

    const flows = new FlowProducer(options);
    const child = { name: 'child', queueName: 'jobs', data: 1 };
    const flow = await flows.add({ name: 'parent', queueName: 'jobs', data: 7, children: [child, child] });
    equal(await result(flow.job), 14);
    equal(Object.values(await flow.job.getChildrenValues()), [2, 2]);

    await queue.upsertJobScheduler('often', { every: 50 }, { name: 'double', data: 1 });
    await until(async () => (await queue.getCompletedCount()) >= 208);
    equal(await queue.removeJobScheduler('often'), true);
    await worker.close();
    await queue.obliterate({ force: true });
    equal(await queue.getJobCountByTypes('completed', 'delayed', 'waiting'), 0);
    await Promise.all([queue.close(), events.close(), flows.close()]);
});
