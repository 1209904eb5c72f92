//! The methods that are read by ID, and how each of them names things.

use crate::values::json;
use crate::values::method::Method;

/// How methods of one kind name what reading by ID needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The ID in filter, order and `select` …
    pub asked: &'static str,
    /// … and in rows.
    pub answered: &'static str,
    /// Where the rows are in `result`; empty: `result` itself.
    pub rows: &'static str,
    pub filter: &'static str,
    pub order: Order,
    pub select: &'static str,
    /// What the filter must name and `select` contain: without it Bitrix24 refuses the call.
    pub needs: Option<&'static str>,
    /// It upper-cases its parameters' names, and takes them for conditions where there is no filter; these alone are none.
    pub no_conditions: Option<&'static [&'static str]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `{"order":{"ID":"ASC"}}`
    Map(&'static str),
    /// `{"sort":"ID","order":"ASC"}`
    SortAndOrder,
}

/// Rows with `ID`, in `result` itself.
const UPPER: Family = Family {
    asked: "ID",
    answered: "ID",
    rows: "",
    filter: "filter",
    order: Order::Map("order"),
    select: "select",
    needs: None,
    no_conditions: None,
};
const USERS: Family = Family {
    filter: "FILTER",
    order: Order::SortAndOrder,
    no_conditions: Some(&["admin_mode", "image_resize", "select"]),
    ..UPPER
};
const ELEMENTS: Family = Family { filter: "FILTER", order: Order::Map("ELEMENT_ORDER"), select: "SELECT", ..UPPER };
const TASKS: Family = Family { answered: "id", rows: "tasks", ..UPPER };

/// Rows with `id`, in a list of this name.
const fn lower(rows: &'static str) -> Family {
    Family { asked: "id", answered: "id", rows, ..UPPER }
}

const fn products(rows: &'static str) -> Family {
    Family { needs: Some("iblockId"), ..lower(rows) }
}

/// In lower case, as PHP looks methods up.
static FAMILIES: &[(&str, Family)] = &[
    ("crm.deal.list", UPPER),
    ("crm.lead.list", UPPER),
    ("crm.contact.list", UPPER),
    ("crm.company.list", UPPER),
    ("crm.quote.list", UPPER),
    ("crm.activity.list", UPPER),
    ("crm.product.list", UPPER),
    ("crm.item.list", lower("items")),
    ("crm.item.productrow.list", lower("productRows")),
    ("crm.type.list", lower("types")),
    ("catalog.product.list", products("products")),
    ("catalog.product.offer.list", products("offers")),
    ("catalog.product.sku.list", products("units")),
    ("catalog.product.service.list", products("services")),
    ("catalog.price.list", lower("prices")),
    ("catalog.storeproduct.list", lower("storeProducts")),
    ("catalog.store.list", lower("stores")),
    ("catalog.document.list", lower("documents")),
    ("catalog.productproperty.list", lower("productProperties")),
    ("sale.order.list", lower("orders")),
    ("sale.basketitem.list", lower("basketItems")),
    ("sale.payment.list", lower("payments")),
    ("tasks.task.list", TASKS),
    ("user.get", USERS),
    ("lists.element.get", ELEMENTS),
];

impl Family {
    pub fn of(method: &Method) -> Option<Family> {
        let name = method.canonical();
        FAMILIES.iter().find(|(known, _)| *known == name).map(|(_, family)| *family)
    }

    /// What `select` must contain.
    pub fn selected(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.asked).chain(self.needs)
    }

    /// Adds the order by ID to a page's parameters.
    pub fn push_order(&self, page: &mut String) {
        let id = json::quoted(self.asked);
        match self.order {
            Order::Map(name) => json::push_member(page, name, &format!("{{{id}:\"ASC\"}}")),
            Order::SortAndOrder => {
                json::push_member(page, "sort", &id);
                json::push_member(page, "order", "\"ASC\"");
            }
        }
    }

    /// Whether a parameter of this name (in lower case) says where reading begins, or in which order.
    pub fn is_order_or_start(&self, lower: &str) -> bool {
        matches!(lower, "order" | "sort" | "start")
            || matches!(self.order, Order::Map(name) if name.eq_ignore_ascii_case(lower))
    }

    /// Whether the method hears `name` as `known`.
    pub fn hears(&self, name: &str, known: &str) -> bool {
        name == known || (self.no_conditions.is_some() && name.eq_ignore_ascii_case(known))
    }

    /// Whether a parameter of this name (in lower case) may be a condition, which a filter would replace.
    pub fn may_be_condition(&self, lower: &str) -> bool {
        self.no_conditions.is_some_and(|known| !known.contains(&lower))
    }
}
