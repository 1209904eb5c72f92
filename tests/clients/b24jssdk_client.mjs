// What users of @bitrix24/b24jssdk do, unmodified: one argument, the scenario.
// The webhook's address is in $WEBHOOK. Prints one line of JSON for the test.
//
// What surprises in this client (2.2.0):
// - It accepts a webhook at the root of an https host only: /rest/1/TOKEN/.
// - It posts to an address with a query of its own, bx24_request_id and others,
//   which are parameters like all others to the portal.
// - An error within a batch of REST 2 is answered in place; a failed call throws.
// - A 503 is repeated (three attempts) after 1.5 s and more; 4xx never are.
// - An unknown method of REST 3.0 is no exception: the answer is an error.
import { B24Hook } from '@bitrix24/b24jssdk'

const b24 = B24Hook.fromWebhookUrl(process.env.WEBHOOK)
b24.offClientSideWarning()
const call = (method, params) => b24.actions.v2.call.make({ method, params })
const call3 = (method, params) => b24.actions.v3.call.make({ method, params })

async function failure(promise) {
  try {
    const answer = await promise
    return answer.isSuccess ? { result: answer.getData().result } : { soft: answer.getErrorMessages() }
  } catch (error) {
    return { code: error.code, status: error.status }
  }
}

const scenarios = {
  async single() {
    const added = await call('crm.deal.add', { fields: { TITLE: 'Стол «Дуб» №1 & Co' } })
    const id = added.getData().result
    return {
      added: id,
      got: (await call('crm.deal.get', { id })).getData().result,
      time: typeof added.getData().time.operating,
      null: (await call('sim.echo', { a: null, b: [1, { c: 'й' }], d: true })).getData().result,
    }
  },

  async lists() {
    const all = await b24.actions.v2.callList.make({ method: 'crm.deal.list', params: { select: ['ID', 'TITLE'] } })
    const pages = []
    for (let start = 0; ;) {
      const page = await call('crm.deal.list', { start })
      pages.push(page.getData().result.length)
      if (!page.isMore()) break
      start += page.getData().result.length
    }
    return { ids: all.getData().map((deal) => Number(deal.ID)), pages }
  },

  async batches() {
    const calls = Array.from({ length: 120 }, (_, i) => ['crm.deal.add', { fields: { TITLE: `Сделка ${i}` } }])
    const added = await b24.actions.v2.batchByChunk.make({ calls, options: { isHaltOnError: true } })
    const named = await b24.actions.v2.batch.make({
      calls: { p: { method: 'profile' }, d: { method: 'crm.deal.get', params: { id: 7 } }, x: { method: 'no.such.method' } },
      options: { isHaltOnError: false, returnAjaxResult: true },
    })
    const of = named.getData()
    return {
      added: added.getData().length,
      profile: of.p.getData().result.ID,
      deal: of.d.getData().result.TITLE,
      unknown: of.x.getErrorMessages(),
    }
  },

  async rest3() {
    const added = await call3('tasks.task.add', { fields: { title: 'Задача' } })
    const id = added.getData().result.item.id
    const list = await b24.actions.v3.batch.make({
      calls: [['tasks.task.get', { id }], ['profile', {}]],
    })
    const named = await b24.actions.v3.batch.make({
      calls: { t: { method: 'tasks.task.get', params: { id } } },
    })
    return {
      title: list.getData()[0].item.title,
      named: named.getData().t.item.title,
      missing: await failure(call3('tasks.task.get', { id: 999 })),
      unknown: await failure(call3('no.such.method', {})),
    }
  },

  unknown_method: () => failure(call('no.such.method', {})),
  wrong_token: () => failure(call('profile', {})),
  add_once: () => failure(call('crm.deal.add', { fields: { TITLE: 'once' } })),

  async ten_calls() {
    const answers = []
    for (let i = 0; i < 10; i++) answers.push((await call('sim.echo', { i })).getData().result.i)
    return answers
  },
}

console.log(JSON.stringify(await scenarios[process.argv[2]]()))
