/** Everything on all pages: `for await (const item of listing)`. Each loop begins anew. */
export class Listing<Page, Item> implements AsyncIterable<Item> {
  /** @internal */
  constructor(
    private readonly readPages: () => AsyncGenerator<Page, void, void>,
    private readonly itemsOf: (pages: AsyncIterable<Page>) => AsyncGenerator<Item, void, void>,
  ) {}

  /** The pages as the gateway answers them, with their counts. */
  pages(): AsyncGenerator<Page, void, void> {
    return this.readPages();
  }

  [Symbol.asyncIterator](): AsyncGenerator<Item, void, void> {
    return this.itemsOf(this.pages());
  }
}
