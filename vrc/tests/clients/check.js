// What the programs for Node.js share.

const assert = require('node:assert/strict');
const path = require('node:path');
const { createRequire } = require('node:module');

// The libraries are where VRC_CLIENTS says, not beside these files.
const library = createRequire(path.join(process.env.VRC_CLIENTS, 'package.json'));

const equal = assert.deepEqual;

// fails(PROMISE, TEXT): its error has this in its text.
async function fails(promise, text) {
    await assert.rejects(promise, (error) => error.message.includes(text) || assert.fail(`${error.message} lacks ${text}`));
}

// Runs the program; nothing that it leaves open keeps the process from ending.
function main(program) {
    program().then(
        () => {
            console.log('all well');
            process.exit(0);
        },
        (error) => {
            console.error(error);
            process.exit(1);
        },
    );
}

// The first line of what the program is told on its standard input.
function lineOfInput() {
    return new Promise((resolve) => require('node:readline').createInterface({ input: process.stdin }).once('line', resolve));
}

// Asks until the answer is as it should be.
async function until(ask) {
    while (!(await ask()));
}

// untilBlocked(INFO, COUNT): so many clients wait for data, says what INFO gives.
function untilBlocked(info, count) {
    return until(async () => (await info()).includes(`blocked_clients:${count}\r\n`));
}

const [port, protocol, password] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];
module.exports = { library, equal, fails, main, lineOfInput, until, untilBlocked, port, protocol, password };
