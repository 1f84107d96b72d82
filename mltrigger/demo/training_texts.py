"""Short invented texts that the classifier learns from. None is from a shipped page."""

TRAINING_TEXTS: dict[str, tuple[str, ...]] = {
    "invoice": (
        (
            "Invoice number 10233. Bill to: Stonebridge Bakery. Flour. Net amount 310.00. VAT"
            " 59.00. Total due 369.00"
        ),
        (
            "Tax invoice. Customer number 5519. Consulting, 16 hours. Amount payable within 14 days"
            " by bank transfer"
        ),
        (
            "Invoice date 3 October 2025. Order reference PO 4410. Unit price, quantity, subtotal,"
            " sales tax, balance due"
        ),
        (
            "Your invoice for February. Web hosting, 12 months. Net 96.00, VAT 18.24. Payment"
            " terms: 30 days net"
        ),
        (
            "Invoice to Ridgeway School. Chairs and tables, 8 pcs. Subtotal 212.40. Please pay to"
            " the account below"
        ),
        (
            "Pro forma invoice. Shipment of spare parts, 40 pcs. Customer: Delta Marine Ltd. Due"
            " date 12 August"
        ),
        (
            "Invoice no. 77. Repair of heating pump, labour and parts. Tax 20 %. Amount due. IBAN"
            " and account number below"
        ),
        (
            "Billing statement. Invoice issued for order 9921. Late payment surcharge applies after"
            " the due date"
        ),
        (
            "Bill to: City Library. Printing of brochures. Net amount, tax, total due in EUR."
            " Payment within 10 days"
        ),
    ),
    "receipt": (
        (
            "Corner Grocery. Milk 1.29, bread 2.49, butter 3.19. Total 6.97. Cash 10.00. Change"
            " 3.03. Thank you"
        ),
        "Receipt 00451. Till 2. Cashier Mia. 1 espresso, 1 croissant. Total. Card payment approved",
        (
            "Pizzeria Sole. Table 5. 2 Margherita, 1 mineral water. Total EUR. Cash. Change. Thank"
            " you for your visit"
        ),
        (
            "Petrol station receipt. Pump 4. Unleaded 38.2 litres. Card ending 7716. Authorised."
            " Please come again"
        ),
        (
            "Garden centre. Till 11 09:14. Potting soil, clay pot. Items sold 2. Subtotal. Visa"
            " card. Keep your receipt"
        ),
        "Taxi receipt. Fare 18.40, tip 2.00. Paid in cash. Have a nice day",
        (
            "Pharmacy sales slip. Plasters 3.95, cough drops 2.80. Total. Card payment. No returns"
            " without receipt"
        ),
        (
            "Book shop. 2 items. Total 27.90. Gift card. Change 0.00. Exchange within 14 days with"
            " this slip"
        ),
        (
            "Bakery and tea room. 3 rolls, 1 hot chocolate. Total. Cash. Change. Thank you, see you"
            " soon"
        ),
    ),
    "letter": (
        (
            "Dear Mr Lindqvist, thank you for your letter of last week. I was happy to hear from"
            " you. Yours sincerely"
        ),
        (
            "Dear Aunt Rosa, we are all well and the children are growing fast. We hope to see you"
            " in summer. Love, Ben"
        ),
        (
            "Dear Sir or Madam, I am writing to ask about the position in your museum. I look"
            " forward to your reply"
        ),
        (
            "Dear neighbours, we would like to invite you to our garden party in June. Please let"
            " us know if you can come"
        ),
        (
            "Dear Dr Hale, I am sorry that I could not attend the meeting. Would another week suit"
            " you? Kind regards"
        ),
        (
            "Dear members of the choir, we were delighted by your concert and hope that you will"
            " sing for us next year"
        ),
        (
            "Dear Ms Petrova, with great pleasure I tell you that our jury liked your story. With"
            " best wishes"
        ),
        (
            "My dear friend, how are you? It was so kind of you to write. The weather here is"
            " lovely. Warm regards"
        ),
        (
            "Dear parents, next month our class will visit the old mill. Please send me a note."
            " Yours faithfully"
        ),
    ),
    "contract": (
        (
            "Rental agreement between the landlord and the tenant. The term begins on 1 July. Rent"
            " is payable monthly"
        ),
        (
            "This contract is made between the Supplier and the Buyer. The parties agree as"
            " follows. Governing law"
        ),
        (
            "Employment contract. The employee shall begin work on 1 September. Notice period: four"
            " weeks"
        ),
        (
            "Non-disclosure agreement. The receiving party shall keep all information confidential."
            " Signed by both parties"
        ),
        (
            "Licence agreement. The licensor grants the licensee a right of use. Termination"
            " requires written notice"
        ),
        (
            "Clause 7. Liability of the contractor is limited. Clause 8. Amendments to this"
            " agreement must be in writing"
        ),
        (
            "Purchase agreement. The seller transfers title to the vehicle described in the annex."
            " Place, date, signature"
        ),
        (
            "Maintenance contract. The provider shall carry out the services of Annex B for a term"
            " of one year"
        ),
        (
            "Loan agreement between the parties named above. Termination, jurisdiction and"
            " governing law. Two copies"
        ),
    ),
}
"""Document type -> texts of that type."""
